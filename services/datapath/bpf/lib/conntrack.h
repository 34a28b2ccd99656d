/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * Flows. One entry holds both directions; whether it may still be trusted is decided when it is looked up, by age and
 * by epoch. An entry whose epoch is old stays, because it still knows who began.
 */
#pragma once
#include "packet.h"

/* Fill `key`; return whether the sender is the low end. */
static __always_inline bool make_flow_key(struct flow_key *key, const struct address *source,
					  const struct address *destination, __u16 sport_be, __u16 dport_be)
{
	bool low = source->word[0] < destination->word[0];

	if (source->word[0] == destination->word[0]) {
		low = source->word[1] < destination->word[1];
		if (source->word[1] == destination->word[1])
			low = sport_be < dport_be;
	}
	key->low = low ? *source : *destination;
	key->high = low ? *destination : *source;
	key->low_port_be = low ? sport_be : dport_be;
	key->high_port_be = low ? dport_be : sport_be;
	return low;
}

static __always_inline bool flow_alive(const struct flow *flow, const struct settings *config, __u8 protocol)
{
	__u64 timeout = config->other_timeout;

	if (protocol == IPPROTO_TCP) {
		timeout = config->syn_timeout;
		if (flow->flags & FLOW_ESTABLISHED)
			timeout = config->established_timeout;
		if ((flow->flags & (FLOW_LOW_CLOSING | FLOW_HIGH_CLOSING)) == (FLOW_LOW_CLOSING | FLOW_HIGH_CLOSING))
			timeout = config->closing_timeout;
	}
	return bpf_jiffies64() - flow->last_seen <= timeout;
}

static __always_inline struct endpoint_state *state_of(__u32 endpoint)
{
	return endpoint_state.lookup(&endpoint);
}

/* Return the epoch that a flow between these ends would be stamped with now. */
static __always_inline __u32 epoch_of_flow(const struct flow *flow, const struct settings *config)
{
	struct endpoint_state *low = state_of(flow->low_endpoint);
	struct endpoint_state *high = state_of(flow->high_endpoint);

	if (!low || !high)
		return 0;
	return READ_ONCE(config->address_epoch) + READ_ONCE(low->epoch) + READ_ONCE(high->epoch);
}

static __always_inline bool is_reply(const struct flow *flow, bool from_low)
{
	return from_low != !!(flow->flags & FLOW_LOW_BEGAN);
}

static __always_inline __u32 sender_identity(const struct flow *flow, bool from_low)
{
	return is_reply(flow, from_low) ? flow->destination_identity : flow->source_identity;
}

/* Tell whether the packet opens a connection anew although an entry for its addresses and ports exists. */
static __always_inline bool reopens(const struct flow *flow, const struct packet *p, bool from_low)
{
	if ((p->tcp_flags & (TCP_SYN | TCP_ACK)) != TCP_SYN)
		return false;
	return is_reply(flow, from_low) || (flow->flags & (FLOW_LOW_CLOSING | FLOW_HIGH_CLOSING));
}

/* Return the flags that a TCP packet adds to its flow. */
static __always_inline __u32 flags_after(const struct packet *p, bool from_low)
{
	__u32 flags = 0;

	if (p->protocol != IPPROTO_TCP || p->fragment == FRAGMENT_LATER)
		return 0;
	if (!(p->tcp_flags & TCP_SYN))
		flags |= FLOW_ESTABLISHED;
	if (p->tcp_flags & TCP_FIN)
		flags |= from_low ? FLOW_LOW_CLOSING : FLOW_HIGH_CLOSING;
	if (p->tcp_flags & TCP_RST)
		flags |= FLOW_LOW_CLOSING | FLOW_HIGH_CLOSING;
	return flags;
}

/* Account a packet that passes. */
static __always_inline void touch_flow(struct flow *flow, const struct packet *p, bool from_low, __u32 length)
{
	__u32 flags = flow->flags | flags_after(p, from_low);
	__u64 now = bpf_jiffies64();

	if (flow->last_seen != now)
		flow->last_seen = now;
	if (flow->flags != flags)
		flow->flags = flags;
	if (is_reply(flow, from_low)) {
		__sync_fetch_and_add(&flow->packets[1], 1);
		__sync_fetch_and_add(&flow->bytes[1], length);
	} else {
		__sync_fetch_and_add(&flow->packets[0], 1);
		__sync_fetch_and_add(&flow->bytes[0], length);
	}
}
