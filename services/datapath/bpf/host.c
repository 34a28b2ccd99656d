/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * Attached to tc ingress of the uplinks (what the network sends) and to tc egress of fairlead_host (what this node's
 * own stack sends to its pods). What is not for a local endpoint is none of our business and goes on untouched.
 */
#include "lib/parse.h"
#include "lib/handle.h"

#define VLAN_NUMBER 0xfff /* the bits of a tag that are not its priority */

/* Tell whether the frame is a VLAN's, and so for a device of its own. With number 0 a tag is only a priority: the stack
 * takes the packet as if it had none. */
static __always_inline bool is_in_vlan(const struct __sk_buff *skb)
{
	return skb->vlan_present && skb->vlan_tci & VLAN_NUMBER;
}

/* Tell whether a second tag that is only a priority stands behind such a one: the stack takes off both, and nobody who
 * has nothing to hide sends that. */
static __always_inline bool hides_in_tags(struct __sk_buff *skb)
{
	__u16 tag_be = 0;

	if (!skb->vlan_present || is_in_vlan(skb) ||
	    (skb->protocol != BE16(ETH_P_8021Q) && skb->protocol != BE16(ETH_P_8021AD)))
		return false;
	return !bpf_skb_load_bytes(skb, ETH_HLEN, &tag_be, sizeof(tag_be)) && !(BE16(tag_be) & VLAN_NUMBER);
}

/* For a pod, or while a host policy is in force for the node itself. */
static __always_inline int to_pods(struct __sk_buff *skb, int origin)
{
	struct packet p = {};
	struct verdict v = {.direction = INGRESS};
	struct settings *config;
	bool foreign = false;
	__u32 zero = 0;
	int action;

	if (skb->protocol != BE16(ETH_P_IP) && skb->protocol != BE16(ETH_P_IPV6)) {
		if (origin == ORIGIN_NETWORK && hides_in_tags(skb))
			return drop_quietly(skb, DROP_VLAN, INGRESS);
		return TC_ACT_OK;
	}
	if (origin == ORIGIN_NETWORK && is_in_vlan(skb))
		return TC_ACT_OK;
	config = settings.lookup(&zero);
	if (!config)
		return TC_ACT_OK;
	make_linear(skb, headers_length(skb));
	if (skb->protocol == BE16(ETH_P_IP))
		v.reason = parse_ipv4(skb, &p);
	else
		v.reason = parse_ipv6(skb, &p);
	/* fragments leave traces, and errors are reported, only for our own */
	if (v.reason || p.fragment)
		foreign = !receiver_of(&p, origin);
	if (foreign && (v.reason || origin != ORIGIN_NETWORK || !masquerades(config, p.family)))
		return TC_ACT_OK;
	if (!v.reason)
		v.reason = parse_l4(skb, &p, !foreign);
	if (!v.reason && origin == ORIGIN_NETWORK && masquerades(config, p.family))
		v.reason = unmasquerade(skb, &p, config);
	if (foreign && !p.outer_port_be)
		return TC_ACT_OK;
	if (v.reason) {
		v.endpoint = receiver_of(&p, origin);
		if (!v.endpoint)
			return TC_ACT_OK;
		/* the node speaks more protocols than pods may: policy judges them without ports */
		if (v.endpoint != HOST_ENDPOINT || v.reason != DROP_UNKNOWN_L4)
			return drop(skb, &p, &v);
	}
	action = handle(skb, &p, origin);
	return p.outer_port_be && action == TC_ACT_OK ? TC_ACT_SHOT : action;
}

int from_network(struct __sk_buff *skb)
{
	return to_pods(skb, ORIGIN_NETWORK);
}

/*
 * What the stack sends to other nodes' pods, their routes lead here too. No flow is kept of it: what the node itself
 * sends comes here only while no host policy is in force (but for fragments), and what comes back is for the stack.
 */
static __always_inline int to_other_nodes(struct __sk_buff *skb)
{
	struct packet p = {};
	struct verdict v = {.direction = EGRESS, .source_identity = IDENTITY_HOST};
	struct settings *config;
	struct tunnel_to *to;
	__u32 zero = 0;
	int action = TC_ACT_OK;

	if (skb->protocol != BE16(ETH_P_IP) && skb->protocol != BE16(ETH_P_IPV6))
		return TC_ACT_OK;
	config = settings.lookup(&zero);
	if (!config || !config->tunnel_ifindex)
		return TC_ACT_OK;
	if (skb->protocol == BE16(ETH_P_IP) ? parse_ipv4(skb, &p) : parse_ipv6(skb, &p))
		return TC_ACT_OK;
	to = tunnel_to(&p.destination, p.family);
	if (!to)
		return TC_ACT_OK;
	if (skb->ingress_ifindex)
		v.source_identity = identity_with(&p.source, p.family);
	if (skb->ingress_ifindex && v.source_identity == IDENTITY_HOST)
		v.source_identity = IDENTITY_WORLD;
	v.reason = encapsulate(skb, &to->node, config->tunnel_ifindex, v.source_identity, &action);
	if (v.reason)
		return drop(skb, &p, &v);
	count(skb, 0, EGRESS);
	return action;
}

int from_host(struct __sk_buff *skb)
{
	int action = to_pods(skb, ORIGIN_HOST);

	return action == TC_ACT_OK ? to_other_nodes(skb) : action;
}

/*
 * Attached to tc egress of the uplinks while a host policy is in force. What pods send passes here too: like all that
 * the node forwards it came in by some device, and what it says itself did not.
 */
int to_uplink(struct __sk_buff *skb)
{
	struct packet p = {};
	struct verdict v = {.direction = EGRESS, .endpoint = HOST_ENDPOINT, .source_identity = IDENTITY_HOST};

	if (!firewall_is_on() || skb->vlan_present ||
	    (skb->protocol != BE16(ETH_P_IP) && skb->protocol != BE16(ETH_P_IPV6)))
		return TC_ACT_OK;
	make_linear(skb, headers_length(skb));
	if (skb->protocol == BE16(ETH_P_IP))
		v.reason = parse_ipv4(skb, &p);
	else
		v.reason = parse_ipv6(skb, &p);
	if (is_multicast(&p) || (skb->ingress_ifindex && !is_own(&p.source)))
		return TC_ACT_OK;
	if (!v.reason)
		v.reason = parse_l4(skb, &p, true);
	/* a pod's flow, seen before it became the node's in name */
	if (skb->ingress_ifindex &&
	    (v.reason || masqueraded(&p.destination, &p.source, p.dport_be, p.sport_be, p.protocol)))
		return TC_ACT_OK;
	if (v.reason && v.reason != DROP_UNKNOWN_L4)
		return drop(skb, &p, &v);
	/* what the node says about packets that it cannot deliver is no speech of its own */
	if (p.icmp_error || is_essential(&p))
		return TC_ACT_OK;
	return handle(skb, &p, ORIGIN_UPLINK);
}
