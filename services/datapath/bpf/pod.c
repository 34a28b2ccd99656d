/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* Attached to tc ingress of the host side of every endpoint's veth pair: what pods send. */
#include "lib/parse.h"
#include "lib/neighbour.h"
#include "lib/handle.h"

int from_pod(struct __sk_buff *skb)
{
	struct packet p = {};
	struct verdict v = {.direction = EGRESS};
	int action;

	make_linear(skb, headers_length(skb));
	if (skb->vlan_present)
		return drop_quietly(skb, DROP_VLAN, EGRESS);
	if (skb->protocol == BE16(ETH_P_ARP))
		return answer_arp(skb);
	if (skb->protocol == BE16(ETH_P_IP))
		v.reason = parse_ipv4(skb, &p);
	else if (skb->protocol == BE16(ETH_P_IPV6))
		v.reason = parse_ipv6(skb, &p);
	else
		return drop_quietly(skb, DROP_UNKNOWN_L3, EGRESS);
	if (p.family == 6 && !v.reason) {
		action = answer_discovery(skb, &p);
		if (action != -1)
			return action;
	}
	if (!v.reason)
		v.reason = parse_l4(skb, &p, true);
	if (v.reason)
		return drop(skb, &p, &v);
	return handle(skb, &p, ORIGIN_POD);
}
