/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * The way of every packet that has been parsed: one look at the flow table; if the flow was allowed under the epochs of
 * this moment it goes on, otherwise it is judged.
 */
#pragma once
#include "forward.h"
#include "judge.h"
#include "tunnel.h"

/* Tell whether the flow's stamp still holds and the packet comes from where the flow's packets come. */
static __always_inline bool trusted(struct __sk_buff *skb, struct packet *p, int origin, const struct flow *flow,
				    bool from_low, const struct settings *config, struct parties *who)
{
	who->source_endpoint = from_low ? flow->low_endpoint : flow->high_endpoint;
	who->destination_endpoint = from_low ? flow->high_endpoint : flow->low_endpoint;
	who->source = state_of(who->source_endpoint);
	who->destination = state_of(who->destination_endpoint);
	who->far_flags = flow->flags & FLOW_FAR;
	if (!who->source || !who->destination)
		return false;
	who->epoch =
		READ_ONCE(config->address_epoch) + READ_ONCE(who->source->epoch) + READ_ONCE(who->destination->epoch);
	if (who->epoch != flow->epoch || !flow_alive(flow, config, p->protocol) || reopens(flow, p, from_low))
		return false;
	if (origin == ORIGIN_POD) {
		/* the outer end is looked after on the slow way */
		if ((flow->flags & (FLOW_MASQUERADED | FLOW_FAR)) == FLOW_MASQUERADED &&
		    bpf_jiffies64() >= flow->hop_until)
			return false;
		return who->source_endpoint && who->source->ifindex == skb->ifindex;
	}
	if (origin == ORIGIN_UPLINK)
		return !who->destination_endpoint && (skb->ingress_ifindex || !who->far_flags) &&
		       (who->source_endpoint == HOST_ENDPOINT || who->far_flags == FLOW_STACK);
	if (who->source_endpoint && (origin != ORIGIN_HOST || who->source_endpoint != HOST_ENDPOINT))
		return origin == ORIGIN_HOST && turned_round(skb) && was_turned(flow);
	if (origin == ORIGIN_HOST && who->far_flags == FLOW_OVERLAY)
		return who->source_endpoint == HOST_ENDPOINT && !skb->ingress_ifindex;
	/* what the node carries on for others, and sends away by an uplink, is a flow too, but not one of this door */
	if (origin == ORIGIN_HOST)
		return who->destination_endpoint &&
		       who->far_flags ==
			       (FLOW_STACK | (speaks_as_host(skb, flow, is_reply(flow, from_low)) ? FLOW_HOST : 0));
	/* a node whose pod has become another says so before the address map does, or after it */
	if (origin == ORIGIN_OVERLAY)
		return who->far_flags == FLOW_OVERLAY && sender_identity(flow, from_low) == p->tunnel_identity;
	return !who->far_flags && p->outer_port_be == flow->nat_port_be;
}

/* Send the packet where it belongs, or tell its sender that it cannot get there. */
static __always_inline int deliver(struct __sk_buff *skb, struct packet *p, int origin, const struct settings *config,
				   struct flow *flow, const struct parties *who, struct verdict *v)
{
	int action = TC_ACT_OK;

	v->reason = 0;
	if (origin == ORIGIN_UPLINK || (origin == ORIGIN_NETWORK && who->destination_endpoint == HOST_ENDPOINT))
		return TC_ACT_OK; /* where it goes already */
	if ((origin == ORIGIN_POD && who->far_flags & FLOW_STACK) ||
	    (origin == ORIGIN_OVERLAY && who->destination_endpoint == HOST_ENDPOINT))
		action = to_stack(config);
	else if (who->destination_endpoint)
		v->reason = to_endpoint(skb, p, who->destination, origin, &action);
	else if (who->far_flags & FLOW_OVERLAY)
		v->reason = to_tunnel(skb, p, config, flow, who->source->identity, origin, &action);
	else
		v->reason = to_network(skb, p, config, flow, &action);
	if (!v->reason)
		return action;
	v->provenance = 0;
	v->endpoint = origin == ORIGIN_POD ? who->source_endpoint : who->destination_endpoint;
	v->source_identity = who->source->identity;
	v->destination_identity = who->destination->identity;
	v->direction = direction_of(origin);
	drop(skb, p, v);
	return p->outer_port_be ? TC_ACT_SHOT : tell_sender(skb, p, v->reason, config);
}

/* Tell what a packet that was judged, and passes, has of news. */
static __always_inline void tell(struct __sk_buff *skb, struct packet *p, struct verdict *v, const struct scratch *news)
{
	if (news->reason) {
		v->provenance = news->provenance;
		v->endpoint = news->endpoint;
		v->reason = news->reason;
		v->direction = news->direction;
	}
	if (news->of_packet)
		report(skb, p, v, news->of_packet);
}

/* The slow way: judge the packet, send it on or drop it, and tell. */
static __always_inline int handle_judged(struct __sk_buff *skb, struct packet *p, int origin, struct flow_key *key,
					 struct flow *flow, bool from_low, const struct settings *config,
					 struct parties *who)
{
	__u32 zero = 0;
	struct scratch *news = scratch.lookup(&zero);
	int action = REFUSED;
	struct verdict *v;

	if (!news)
		return TC_ACT_SHOT;
	news->packet = *p;
	p = &news->packet;
	v = &news->verdict;
	__builtin_memset(v, 0, sizeof(*v));
	v->direction = direction_of(origin);
	v->is_reply = !flow && origin == ORIGIN_UPLINK && answers(p);
	if (flow || !denied_just_now(skb, p, key, from_low, origin, config, v))
		action = judge(skb, p, origin, key, flow, from_low, config, who, v, news);
	if (action == CONTINUE) {
		if (flow && news->of_flow)
			report_flow(skb, p, flow, from_low, news->of_flow);
		tell(skb, p, v, news);
		/* what leaves the node keeps its way, and its outer end, in the flow that was just written */
		flow = origin == ORIGIN_POD && !who->destination_endpoint ? conntrack.lookup(key) : 0;
		if (origin == ORIGIN_POD && !(who->far_flags & FLOW_FAR) &&
		    (who->far_flags | (flow ? flow->flags : 0)) & FLOW_MASQUERADED) {
			/* a packet that begins no flow, or finds one that is over, leaves only as it did before */
			v->reason = DROP_NO_MAPPING;
			if (flow && flow->flags & FLOW_MASQUERADED)
				v->reason = find_outer_end(skb, p, config, flow, &news->inner);
			if (READ_ONCE(v->reason))
				return drop(skb, p, v);
		}
		count(skb, 0, v->direction);
		return deliver(skb, p, origin, config, flow, who, v);
	}
	return action == REFUSED ? drop(skb, p, v) : action;
}

static __always_inline int handle_flow(struct __sk_buff *skb, struct packet *p, int origin, struct flow_key *key,
				       bool from_low, const struct settings *config)
{
	struct verdict v = {};
	struct parties who = {};
	struct flow *flow = conntrack.lookup(key);
	__u32 due;

	if (!flow || !trusted(skb, p, origin, flow, from_low, config, &who))
		return handle_judged(skb, p, origin, key, flow, from_low, config, &who);
	due = touch_flow(flow, p, from_low, skb->len, config);
	if (due)
		report_flow(skb, p, flow, from_low, due);
	count(skb, 0, direction_of(origin));
	return deliver(skb, p, origin, config, flow, &who, &v);
}

static __always_inline int handle(struct __sk_buff *skb, struct packet *p, int origin)
{
	struct flow_key key = {};
	struct settings *config;
	__u32 zero = 0;
	bool from_low;
	int action;

	config = settings.lookup(&zero);
	if (!config)
		return TC_ACT_SHOT;
	from_low = make_flow_key(&key, &p->source, &p->destination, p->sport_be, p->dport_be);
	key.protocol = p->protocol;
	take_flow(&key);
	action = handle_flow(skb, p, origin, &key, from_low, config);
	share_flow();
	return action;
}
