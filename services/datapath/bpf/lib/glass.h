/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * Broken glass: a person lets pass what policies deny, until a moment that stands in a map. Asked only about packets
 * that would be dropped, so nothing else pays for it; that is why the nanosecond clock, which people can read too, will
 * do.
 */
#pragma once
#include "packet.h"

/* Return the later of `until_ns` and the end of the break-glass of the endpoint (0: of the whole node). */
static __always_inline __u64 glass_end(__u32 endpoint, __u64 until_ns)
{
	struct break_glass *row = break_glass.lookup(&endpoint);
	__u64 end_ns = row ? READ_ONCE(row->until_ns) : 0;

	return end_ns > until_ns ? end_ns : until_ns;
}

/* Tell whether somebody broke the glass of the endpoint, or of the whole node, and it has not ended yet. */
static __always_inline bool is_glass_broken(__u32 endpoint)
{
	__u64 until_ns = glass_end(0, glass_end(endpoint, 0));

	return until_ns && bpf_ktime_get_ns() < until_ns;
}
