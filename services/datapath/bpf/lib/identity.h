/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* Who an address is. */
#pragma once
#include "packet.h"

/* Return the number of the local endpoint that has the address, or 0. */
static __always_inline __u32 endpoint_with(struct address *address)
{
	struct endpoint_of *found = endpoints.lookup(address);

	return found ? found->endpoint : 0;
}

/* Return the identity of an address that no local endpoint has; unknown means world. */
static __always_inline __u32 identity_with(struct address *address, __u8 family)
{
	struct identity_of *found = ipcache.lookup(address);
	struct prefix_key key ALIGNED;

	if (found)
		return found->identity;
	key.prefix_length = 32 + 128;
	key.family = family;
	__builtin_memcpy(key.address, address, 16);
	found = ipcache_prefix.lookup(&key);
	return found && found->identity ? found->identity : IDENTITY_WORLD;
}
