/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * Where a packet is judged, and a new flow put together. Not on the stack, of which it would take more than half; and
 * the verifier follows every constant there through every branch, but none in a map (6.18: a million steps, or 60 000).
 */
#pragma once
#include "packet.h"

/* What a verdict rests on: everything a report says beyond the packet itself. */
struct verdict {
	__u32 source_identity;
	__u32 destination_identity;
	__u32 provenance;
	__u16 endpoint; /* whose policy decided */
	__u8 reason;	/* 0: allowed */
	__u8 direction;
	struct policy_key entry; /* that decided, unless a range did */
	__u8 by_range;
	__u8 is_reply;
	__u8 by_glass; /* a policy denies it, and somebody broke the glass */
	__u8 pad;
};

struct scratch {
	struct flow begun;
	struct packet packet;
	struct verdict verdict;
	__u32 of_packet;  /* EVENT_NEW_FLOW, EVENT_AUDIT or 0 */
	__u32 of_flow;	  /* EVENT_CLOSED, EVENT_LASTING or 0 */
	__u32 provenance; /* what a policy that is only audited would have done; reason 0: nothing */
	__u16 endpoint;
	__u8 reason;
	__u8 direction;
	__u32 far_flags;
	/* whose policies are asked for what, by direction, and the rank of the best answer so far; 0: none yet */
	struct policy_key wanted[2];
	struct range_key wanted_range;
	__u32 rank;
	__u32 judge[2]; /* endpoint, or 0 */
	__u32 source_endpoint;
	__u32 destination_endpoint;
	struct packet quoted;
	struct flow_key inner; /* of the flow that an error quotes, or that holds a port */
};
MAP("percpu_array", __u32, struct scratch, scratch);
