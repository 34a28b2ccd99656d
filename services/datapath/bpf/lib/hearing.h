/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* Both ends' policies are asked about a flow; what is audited, or whose glass is broken, passes all the same. */
#pragma once
#include "firewall.h"
#include "glass.h"
#include "policy.h"

/* Let pass what an audited policy denies, or broken glass lets through, and keep the first such denial: it would have
 * been the end of the packet. */
static __always_inline void audit(const struct endpoint_state *state, __u32 direction, struct verdict *v,
				  struct scratch *news)
{
	__u32 wish = direction == EGRESS ? ENDPOINT_AUDIT_EGRESS : ENDPOINT_AUDIT_INGRESS;
	__u8 reason = READ_ONCE(v->reason);

	if (reason != DROP_POLICY && reason != DROP_POLICY_DENY)
		return;
	if (!(state->flags & wish)) {
		if (!is_glass_broken(v->endpoint))
			return;
		v->by_glass = 1;
	}
	if (!news->reason) {
		news->provenance = v->provenance;
		news->endpoint = v->endpoint;
		news->reason = reason;
		news->direction = direction;
	}
	v->reason = 0;
}

/*
 * Note who is asked for what: the initiator's egress policy and the responder's ingress policy. `reply`: the sender is
 * the responder. All in one place and into the map, so that to the verifier it is one world whoever began.
 */
static __always_inline void call_judges(struct packet *p, struct parties *who, bool reply, struct scratch *news)
{
	__u32 initiator = reply ? who->destination_endpoint : who->source_endpoint;
	__u32 responder = reply ? who->source_endpoint : who->destination_endpoint;
	__u32 exempt = exempt_from_policy(p, who, reply);
	struct verdict *v = &news->verdict;

	WRITE_ONCE(news->judge[EGRESS], initiator == exempt ? 0 : initiator);
	WRITE_ONCE(news->judge[INGRESS], responder == exempt ? 0 : responder);
	news->wanted[EGRESS].identity = reply ? v->source_identity : v->destination_identity;
	news->wanted[INGRESS].identity = reply ? v->destination_identity : v->source_identity;
	news->wanted[EGRESS].port_be = news->wanted[INGRESS].port_be = reply ? p->sport_be : p->policy_port_be;
	news->wanted[EGRESS].protocol = news->wanted[INGRESS].protocol = p->protocol;
	news->wanted[EGRESS].direction = EGRESS;
	news->wanted[INGRESS].direction = INGRESS;
}

/* Judge both ends' policies of the flow that the packet belongs to; `reply`: the sender is its responder. */
static __always_inline void judge_flow(struct __sk_buff *skb, struct packet *p, struct parties *who, bool reply,
				       struct verdict *v, struct scratch *news)
{
	struct endpoint_state *initiator = reply ? who->destination : who->source;
	struct endpoint_state *responder = reply ? who->source : who->destination;

	call_judges(p, who, reply, news);
	v->reason = 0;
	if (READ_ONCE(news->judge[EGRESS])) {
		judge_policy(skb, initiator, EGRESS, news);
		audit(initiator, EGRESS, v, news);
		if (READ_ONCE(v->reason))
			return;
	}
	if (READ_ONCE(news->judge[INGRESS])) {
		judge_policy(skb, responder, INGRESS, news);
		audit(responder, INGRESS, v, news);
	}
}
