/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * Flows. One entry holds both directions; whether it may still be trusted is decided when it is looked up, by age and
 * by epoch. An entry whose epoch is old stays, because it still knows who began.
 */
#pragma once
#include "events.h"

#define FLOW_CLOSED (FLOW_LOW_CLOSING | FLOW_HIGH_CLOSING) /* both bits */

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
		if ((flow->flags & FLOW_CLOSED) == FLOW_CLOSED)
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

/* Tell whether the stack turns the flow round: both its ends are pods here, and yet it passes there. */
static __always_inline bool was_turned(const struct flow *flow)
{
	return flow->low_endpoint && flow->high_endpoint && (flow->flags & FLOW_FAR) == FLOW_STACK;
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
	return is_reply(flow, from_low) || flow->flags & FLOW_CLOSED;
}

/* Note TCP flags that this direction had not shown yet. Returns EVENT_CLOSED if they end the flow, else 0. */
static __always_inline __u32 note_tcp_flags(struct flow *flow, __u8 *seen, __u8 tcp_flags)
{
	__u32 flags = flow->flags;
	__u8 forward, reply;

	*seen |= tcp_flags;
	/* from both bytes, each of which has one writer: two ends that close at once must not lose each other's flag */
	forward = READ_ONCE(flow->tcp_seen[0]);
	reply = READ_ONCE(flow->tcp_seen[1]);
	if (!(tcp_flags & TCP_SYN))
		flags |= FLOW_ESTABLISHED;
	if (forward & TCP_FIN)
		flags |= flags & FLOW_LOW_BEGAN ? FLOW_LOW_CLOSING : FLOW_HIGH_CLOSING;
	if (reply & TCP_FIN)
		flags |= flags & FLOW_LOW_BEGAN ? FLOW_HIGH_CLOSING : FLOW_LOW_CLOSING;
	if ((forward | reply) & TCP_RST)
		flags |= FLOW_CLOSED;
	if ((flags & FLOW_CLOSED) != FLOW_CLOSED || flags & FLOW_TOLD) {
		flow->flags = flags;
		return 0;
	}
	flow->flags = flags | FLOW_TOLD;
	return EVENT_CLOSED;
}

/* Tell whether the packet shows its flow something that this direction had not shown yet. */
static __always_inline bool has_new_flags(const struct flow *flow, __u8 seen, const struct packet *p)
{
	if (p->tcp_flags & ~seen)
		return true;
	return !(flow->flags & FLOW_ESTABLISHED) && p->protocol == IPPROTO_TCP && p->fragment != FRAGMENT_LATER &&
	       !(p->tcp_flags & TCP_SYN);
}

/* Account a packet that passes. Returns the kind of report of the flow that is due now, or 0. */
static __always_inline __u32 touch_flow(struct flow *flow, const struct packet *p, bool from_low, __u32 length,
					const struct settings *config)
{
	__u64 now = bpf_jiffies64();
	__u32 due = 0;

	if (flow->last_seen != now) {
		flow->last_seen = now;
		if (config->report_interval && now - flow->reported >= config->report_interval) {
			flow->reported = now;
			due = EVENT_LASTING;
		}
	}
	if (is_reply(flow, from_low)) {
		__sync_fetch_and_add(&flow->packets[1], 1);
		__sync_fetch_and_add(&flow->bytes[1], length);
		if (has_new_flags(flow, flow->tcp_seen[1], p))
			due = note_tcp_flags(flow, &flow->tcp_seen[1], p->tcp_flags);
	} else {
		__sync_fetch_and_add(&flow->packets[0], 1);
		__sync_fetch_and_add(&flow->bytes[0], length);
		if (has_new_flags(flow, flow->tcp_seen[0], p))
			due = note_tcp_flags(flow, &flow->tcp_seen[0], p->tcp_flags);
	}
	return due;
}

/* Report what a flow has come to, seen from its initiator; the packet belongs to it, or takes its place. */
static __always_inline void report_flow(const struct __sk_buff *skb, const struct packet *p, const struct flow *flow,
					bool from_low, __u32 kind)
{
	bool reply = is_reply(flow, from_low), low_began = flow->flags & FLOW_LOW_BEGAN;
	__u16 initiator = low_began ? flow->low_endpoint : flow->high_endpoint;
	__u16 responder = low_began ? flow->high_endpoint : flow->low_endpoint;
	struct event *event = begin_report(skb, kind);

	if (!event)
		return;
	event->source = reply ? p->destination : p->source;
	event->destination = reply ? p->source : p->destination;
	event->sport_be = reply ? p->dport_be : p->sport_be;
	event->dport_be = reply ? p->sport_be : p->dport_be;
	event->source_identity = flow->source_identity;
	event->destination_identity = flow->destination_identity;
	event->endpoint = responder ? responder : initiator;
	event->direction = responder ? INGRESS : EGRESS;
	event->protocol = p->protocol;
	event->tcp_flags[0] = flow->tcp_seen[0];
	event->tcp_flags[1] = flow->tcp_seen[1];
	event->audited = !!(flow->flags & FLOW_AUDITED) + !!(flow->flags & FLOW_BY_GLASS);
	event->packets[0] = flow->packets[0];
	event->packets[1] = flow->packets[1];
	event->bytes[0] = flow->bytes[0];
	event->bytes[1] = flow->bytes[1];
	events.ringbuf_submit(event, 0);
}
