/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * Attached to tc ingress of the tunnels' device: what other nodes send inside VXLAN or Geneve. Nobody else may use that
 * device, so what is for nobody here is dropped.
 */
#include "lib/parse.h"
#include "lib/handle.h"

#define PACKET_HOST 0 /* <linux/if_packet.h> */

/*
 * What is not for a pod is for this node itself, or for nobody. The stack believes what it is given here to come from
 * whom it says: no other node speaks for a pod of ours.
 */
static __always_inline int to_node(struct __sk_buff *skb, struct packet *p, struct verdict *v)
{
	struct settings *config;
	__u32 zero = 0;

	config = settings.lookup(&zero);
	v->destination_identity = identity_with(&p->destination, p->family);
	v->reason = DROP_UNKNOWN_TARGET;
	if (!config || v->destination_identity != IDENTITY_HOST)
		return drop(skb, p, v);
	v->reason = DROP_INVALID_SOURCE;
	if (endpoint_with(&p->source))
		return drop(skb, p, v);
	count(skb, 0, INGRESS);
	return to_stack(config);
}

/*
 * The frame is for the MAC of the sender's gateway, not for this device's, and a pod's stack ignores what is for
 * another's. The kernel forgets this on the way to a peer from 6.15 on, and in some stable releases.
 */
static __always_inline void call_ours(struct __sk_buff *skb)
{
	if (skb->pkt_type != PACKET_HOST)
		bpf_skb_change_type(skb, PACKET_HOST);
}

int from_overlay(struct __sk_buff *skb)
{
	struct packet p = {};
	struct verdict v = {.direction = INGRESS};
	int action;

	if (skb->vlan_present)
		return drop_quietly(skb, DROP_VLAN, INGRESS);
	make_linear(skb, headers_length(skb));
	call_ours(skb);
	if (skb->protocol == BE16(ETH_P_IP))
		v.reason = parse_ipv4(skb, &p);
	else if (skb->protocol == BE16(ETH_P_IPV6))
		v.reason = parse_ipv6(skb, &p);
	else
		return drop_quietly(skb, DROP_UNKNOWN_L3, INGRESS);
	if (!v.reason)
		v.reason = read_tunnel(skb, &p);
	if (v.reason)
		return drop(skb, &p, &v);
	refine_identity(&p);
	v.source_identity = p.tunnel_identity;
	v.endpoint = receiver_of(&p, ORIGIN_OVERLAY);
	if (!v.endpoint)
		return to_node(skb, &p, &v);
	v.reason = parse_l4(skb, &p, true);
	/* the node speaks more protocols than pods may: policy judges them without ports */
	if (v.reason && (v.endpoint != HOST_ENDPOINT || v.reason != DROP_UNKNOWN_L4))
		return drop(skb, &p, &v);
	action = handle(skb, &p, ORIGIN_OVERLAY);
	/* not judged: nobody's, or what the node cannot do without */
	return action == TC_ACT_OK ? to_node(skb, &p, &v) : action;
}
