/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * The slow way of a packet: who are both ends, what do their policies say, remember the answer.
 *
 * Policy always judges the forward direction: the initiator's egress, then the responder's ingress. A reply whose flow
 * is stale has the forward direction judged, so a flow that may not be begun any more may not be answered either. A
 * flow that is denied keeps its entry, unstamped: otherwise its own replies would begin it anew the other way round.
 */
#pragma once
#include "conntrack.h"
#include "denial.h"
#include "firewall.h"
#include "hearing.h"
#include "identity.h"
#include "masquerade.h"
#include "tunnel.h"

#define CONTINUE  -1
#define REFUSED	  -2  /* the verdict says why */
#define NOT_OURS  255 /* as a reason: the packet is for somebody else */
#define UNRELATED 254 /* as a reason: the error quotes nothing that is known */

/* Return the identity of the far end as sender. Only this node's own stack may speak as the host. */
static __always_inline __u32 far_source_identity(struct packet *p, int origin, __u32 far_flags)
{
	__u32 identity;

	if (origin == ORIGIN_UPLINK || (origin == ORIGIN_HOST && far_flags & FLOW_HOST))
		return IDENTITY_HOST;
	if (origin == ORIGIN_OVERLAY)
		return p->tunnel_identity;
	identity = identity_with(&p->source, p->family);
	return identity == IDENTITY_HOST ? IDENTITY_WORLD : identity;
}

/* Find the endpoints and check that the packet may come from where it came. Returns 0 or a reason. */
static __always_inline int find_parties(struct __sk_buff *skb, struct packet *p, int origin, const struct flow *flow,
					bool reply, const struct settings *config, struct parties *who)
{
	__u32 epoch = READ_ONCE(config->address_epoch);

	who->source_endpoint = endpoint_with(&p->source);
	who->destination_endpoint = endpoint_with(&p->destination);
	if (config->features & FEATURE_FIREWALL)
		seat_host(skb, p, origin, flow, reply, who);
	who->source = state_of(who->source_endpoint);
	who->destination = state_of(who->destination_endpoint);
	if (!who->source || !who->destination)
		return DROP_INTERNAL;
	who->epoch = epoch + READ_ONCE(who->source->epoch) + READ_ONCE(who->destination->epoch);
	if (origin == ORIGIN_POD) {
		if (!who->source_endpoint || who->source->ifindex != skb->ifindex)
			return DROP_INVALID_SOURCE;
		who->far_flags = flow && (!who->destination_endpoint || was_turned(flow))
					 ? flow->flags & (FLOW_STACK | FLOW_HOST)
					 : 0;
		if (who->destination_endpoint == HOST_ENDPOINT)
			who->far_flags = FLOW_STACK | FLOW_HOST;
		if (config->tunnel_ifindex && !who->far_flags && !who->destination_endpoint &&
		    tunnel_to(&p->destination, p->family))
			who->far_flags = FLOW_OVERLAY;
		return 0;
	}
	who->far_flags = 0; /* not what the flow says: its far end may have moved from behind the stack */
	if (origin == ORIGIN_UPLINK) {
		who->far_flags = who->source_endpoint ? 0 : FLOW_STACK;
		return 0;
	}
	/* a filtered node's own packets to other nodes' pods */
	if (origin == ORIGIN_HOST && who->source_endpoint == HOST_ENDPOINT && !who->destination_endpoint &&
	    config->tunnel_ifindex && tunnel_to(&p->destination, p->family)) {
		who->far_flags = FLOW_OVERLAY;
		return 0;
	}
	if (!who->destination_endpoint || (who->destination_endpoint == HOST_ENDPOINT && is_essential(p)))
		return NOT_OURS;
	if (who->source_endpoint &&
	    (origin != ORIGIN_HOST || (who->source_endpoint != HOST_ENDPOINT && !turned_round(skb))))
		return DROP_INVALID_SOURCE;
	if (origin == ORIGIN_HOST)
		who->far_flags = FLOW_STACK | (speaks_as_host(skb, flow, reply) ? FLOW_HOST : 0);
	else if (flow && flow->flags & FLOW_HOST && who->destination_endpoint != HOST_ENDPOINT)
		return DROP_INVALID_SOURCE; /* the network does not speak for this node */
	else if (origin == ORIGIN_OVERLAY)
		who->far_flags = FLOW_OVERLAY;
	else if (config->tunnel_ifindex && who->destination_endpoint != HOST_ENDPOINT &&
		 tunnel_to(&p->source, p->family))
		return DROP_INVALID_SOURCE; /* nor for what other nodes have: that comes by their tunnels */
	return 0;
}

static __always_inline void find_identities(struct packet *p, int origin, struct parties *who, struct verdict *v)
{
	v->source_identity = who->source->identity;
	v->destination_identity = who->destination->identity;
	if (!who->source_endpoint)
		v->source_identity = far_source_identity(p, origin, who->far_flags);
	else if (origin == ORIGIN_POD && who->far_flags & FLOW_HOST)
		v->destination_identity = IDENTITY_HOST;
	if (!who->destination_endpoint && !(who->far_flags & FLOW_HOST))
		v->destination_identity = identity_with(&p->destination, p->family);
	if (origin == ORIGIN_POD && !who->destination_endpoint && v->destination_identity == IDENTITY_HOST)
		who->far_flags = FLOW_STACK | FLOW_HOST;
}

static __always_inline bool is_not_ready(const struct endpoint_state *state)
{
	return (state->flags & (ENDPOINT_PRESENT | ENDPOINT_HELD)) != ENDPOINT_PRESENT;
}

static __always_inline bool is_held(struct parties *who, struct verdict *v)
{
	v->reason = DROP_HELD;
	if (who->source_endpoint && who->source_endpoint != HOST_ENDPOINT && is_not_ready(who->source)) {
		v->endpoint = who->source_endpoint;
		v->direction = EGRESS;
		return true;
	}
	v->endpoint = who->destination_endpoint;
	v->direction = INGRESS;
	return who->destination_endpoint && who->destination_endpoint != HOST_ENDPOINT &&
	       is_not_ready(who->destination);
}

/* What broken glass lets through gets the stamp of an epoch that is over: the packet after its end is denied again. */
static __always_inline void stamp(struct flow *flow, const struct parties *who, const struct verdict *v, bool from_low,
				  bool reply, const struct scratch *news)
{
	flow->low_endpoint = from_low ? who->source_endpoint : who->destination_endpoint;
	flow->high_endpoint = from_low ? who->destination_endpoint : who->source_endpoint;
	flow->source_identity = reply ? v->destination_identity : v->source_identity;
	flow->destination_identity = reply ? v->source_identity : v->destination_identity;
	flow->flags = (flow->flags & ~(FLOW_FAR | FLOW_AUDITED | FLOW_BY_GLASS)) | who->far_flags |
		      (READ_ONCE(news->reason) ? FLOW_AUDITED : 0) | (v->by_glass ? FLOW_BY_GLASS : 0);
	flow->hop_until = 0;
	flow->epoch = who->epoch - (v->by_glass ? 1 : 0);
}

/* Remember an allowed packet: stamp the flow it belongs to, or begin one in place of `old`. Returns 0 or a reason. */
static __always_inline int record(struct __sk_buff *skb, struct packet *p, struct flow_key *key, struct flow *flow,
				  struct flow *old, struct parties *who, struct verdict *v, bool from_low,
				  struct scratch *news, const struct settings *config)
{
	struct flow *begun = &news->begun;

	news->of_packet = READ_ONCE(news->reason) ? EVENT_AUDIT : 0;
	if (flow) {
		__u32 told = FLOW_MASQUERADED | FLOW_AUDITED;

		if (v->by_glass && flow->flags & FLOW_BY_GLASS)
			news->of_packet = 0;
		/* only its way was to be asked for anew */
		if ((flow->flags & told) == told && flow->epoch == who->epoch)
			news->of_packet = 0;
		stamp(flow, who, v, from_low, v->is_reply, news);
		news->of_flow = touch_flow(flow, p, from_low, skb->len, config);
		return 0;
	}
	if (p->unrecorded || p->tcp_flags & TCP_RST)
		return 0;
	if (old && !(old->flags & FLOW_TOLD))
		report_flow(skb, p, old, from_low, EVENT_CLOSED);
	__builtin_memset(begun, 0, sizeof(*begun));
	begun->flags = from_low != v->is_reply ? FLOW_LOW_BEGAN : 0;
	stamp(begun, who, v, from_low, v->is_reply, news);
	touch_flow(begun, p, from_low, skb->len, config);
	begun->reported = begun->last_seen;
	if (conntrack.update(key, begun))
		return DROP_FLOW_TABLE;
	if (!news->of_packet)
		news->of_packet = EVENT_NEW_FLOW;
	return 0;
}

/*
 * Let an error pass that quotes a packet of an allowed flow. What a pod says of a masqueraded flow speaks of the outer
 * end then. Returns 0, UNRELATED or a reason.
 */
static __always_inline int relate(struct __sk_buff *skb, struct packet *p, int origin, const struct settings *config,
				  struct scratch *news)
{
	struct packet *quoted = &news->quoted;
	struct flow *flow;

	__builtin_memset(quoted, 0, sizeof(*quoted));
	flow = related_flow(skb, p, quoted, &news->inner, config);
	if (!flow)
		return UNRELATED;
	if (origin == ORIGIN_POD && flow->flags & FLOW_MASQUERADED)
		return masquerade_error(skb, p, quoted, flow);
	return 0;
}

/* Have the numbers be unknown: else each end that a packet may have is a world of its own to the verifier. */
static __always_inline void forget(struct parties *who, struct scratch *news)
{
	WRITE_ONCE(news->source_endpoint, who->source_endpoint);
	WRITE_ONCE(news->destination_endpoint, who->destination_endpoint);
	WRITE_ONCE(news->far_flags, who->far_flags);
	who->source_endpoint = READ_ONCE(news->source_endpoint);
	who->destination_endpoint = READ_ONCE(news->destination_endpoint);
	who->far_flags = READ_ONCE(news->far_flags);
}

/* Returns CONTINUE for a packet that passes, REFUSED for one that is dropped, or what to do with it. */
static __always_inline int judge(struct __sk_buff *skb, struct packet *p, int origin, struct flow_key *key,
				 struct flow *old, bool from_low, const struct settings *config, struct parties *who,
				 struct verdict *v, struct scratch *news)
{
	struct flow *flow = old;

	if (flow && (!flow_alive(flow, config, p->protocol) || reopens(flow, p, from_low)))
		flow = 0;
	news->of_packet = 0;
	news->of_flow = 0;
	news->reason = 0;
	v->is_reply = flow ? is_reply(flow, from_low) : origin == ORIGIN_UPLINK && answers(p);
	if (origin == ORIGIN_NETWORK && p->outer_port_be && !p->icmp_error &&
	    (!flow || flow->nat_port_be != p->outer_port_be)) {
		v->reason = DROP_NO_MAPPING; /* only a pod's next packet can begin the flow anew */
		return REFUSED;
	}
	v->reason = find_parties(skb, p, origin, flow, v->is_reply, config, who);
	if (v->reason)
		return v->reason == NOT_OURS ? TC_ACT_OK : REFUSED;
	find_identities(p, origin, who, v);
	forget(who, news);
	if (is_held(who, v))
		return REFUSED;
	v->reason = 0;
	if (p->icmp_error) {
		int related = relate(skb, p, origin, config, news);

		v->reason = related == UNRELATED ? 0 : related;
		if (related != UNRELATED)
			return related ? REFUSED : CONTINUE;
	}
	if (origin == ORIGIN_POD && !flow && !who->destination_endpoint && !who->far_flags &&
	    shall_masquerade(p, v->destination_identity, config))
		who->far_flags = FLOW_MASQUERADED;
	forget(who, news);
	/* a pod may always reach itself: no policy speaks of that */
	if (who->source_endpoint != who->destination_endpoint)
		judge_flow(skb, p, who, v->is_reply, v, news);
	if (!READ_ONCE(v->reason) && who->far_flags & FLOW_MASQUERADED && !can_masquerade(p))
		v->reason = DROP_NO_MASQUERADE;
	if (READ_ONCE(v->reason)) {
		if (flow && flow->flags & FLOW_BY_GLASS)
			flow->flags &= ~FLOW_BY_GLASS; /* the next one is told anew */
		if (!flow)
			remember_denial(skb, p, key, from_low, origin, config, who, v);
		return REFUSED;
	}
	v->reason = record(skb, p, key, flow, old, who, v, from_low, news, config);
	return v->reason ? REFUSED : CONTINUE;
}
