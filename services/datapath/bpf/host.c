/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * Attached to tc ingress of the uplinks (what the network sends) and to tc egress of fairlead_host (what this node's
 * own stack sends to its pods). What is not for a local endpoint is none of our business and goes on untouched.
 */
#include "lib/parse.h"
#include "lib/handle.h"

static __always_inline int to_pods(struct __sk_buff *skb, int origin)
{
	struct packet p = {};
	struct verdict v = {.direction = INGRESS};

	if (skb->protocol != BE16(ETH_P_IP) && skb->protocol != BE16(ETH_P_IPV6))
		return TC_ACT_OK;
	if (origin == ORIGIN_NETWORK && skb->vlan_present)
		return TC_ACT_OK;
	make_linear(skb, headers_length(skb));
	if (skb->protocol == BE16(ETH_P_IP))
		v.reason = parse_ipv4(skb, &p);
	else
		v.reason = parse_ipv6(skb, &p);
	/* fragments leave traces, and errors are reported, only for our own */
	if ((v.reason || p.fragment) && !endpoint_with(&p.destination))
		return TC_ACT_OK;
	if (!v.reason)
		v.reason = parse_l4(skb, &p);
	if (!v.reason)
		return handle(skb, &p, origin);
	v.endpoint = endpoint_with(&p.destination);
	return v.endpoint ? drop(skb, &p, &v) : TC_ACT_OK;
}

int from_network(struct __sk_buff *skb)
{
	return to_pods(skb, ORIGIN_NETWORK);
}

int from_host(struct __sk_buff *skb)
{
	return to_pods(skb, ORIGIN_HOST);
}
