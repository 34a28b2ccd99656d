/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * This node as an endpoint of its own, while a host policy is in force: whose packets are the node's, and what no
 * policy may deny it.
 */
#pragma once
#include "denial.h"
#include "identity.h"

#define FIREWALL_SINCE 2 /* the schema from which versions know of the firewall */

#define DHCP_SERVER   67
#define DHCP_CLIENT   68
#define DHCPV6_CLIENT 546
#define DHCPV6_SERVER 547

/*
 * Tell whether the node is filtered. An older version puts its number into `abi` and knows nothing of `to_uplink`,
 * which must not go on under rules that nobody keeps up to date.
 */
static __always_inline bool firewall_is_on(void)
{
	__u32 zero = 0;
	struct settings *config = settings.lookup(&zero);
	struct abi_version *version;

	if (!config || !(config->features & FEATURE_FIREWALL))
		return false;
	version = abi.lookup(&zero);
	return version && version->schema >= FIREWALL_SINCE;
}

static __always_inline bool is_own(struct address *address)
{
	return !!host_addresses.lookup(address);
}

/* Return the endpoint that the packet is for: a pod, or this node itself while it is filtered; 0: neither. */
static __always_inline __u32 receiver_of(struct packet *p, int origin)
{
	__u32 endpoint = endpoint_with(&p->destination);

	if (endpoint || (origin != ORIGIN_NETWORK && origin != ORIGIN_OVERLAY) || !firewall_is_on())
		return endpoint;
	return is_own(&p->destination) ? HOST_ENDPOINT : 0;
}

/* Multicast and the limited broadcast: chatter of the link that policies have no words for. */
static __always_inline bool is_multicast(const struct packet *p)
{
	const __u8 *destination = (const __u8 *)&p->destination;

	if (p->family == 6)
		return destination[0] == 0xff;
	return (destination[12] & 0xf0) == 0xe0 || V4_OF(p->destination.word[1]) == 0xffffffff;
}

/* Tell whether the node would lose its link or its address without the packet: neighbour discovery and DHCP. */
static __always_inline bool is_essential(const struct packet *p)
{
	__u16 from = BE16(p->sport_be), to = BE16(p->dport_be), type = BE16(p->policy_port_be);

	if (p->protocol == PROTOCOL_ICMPV6)
		return p->family == 6 && type >= 133 && type <= 137;
	if (p->protocol != IPPROTO_UDP)
		return false;
	if (p->family == 4)
		return (from == DHCP_SERVER && to == DHCP_CLIENT) || (from == DHCP_CLIENT && to == DHCP_SERVER);
	return (from == DHCPV6_SERVER && to == DHCPV6_CLIENT) || (from == DHCPV6_CLIENT && to == DHCPV6_SERVER);
}

/*
 * Tell whether a packet of the node answers, although the flow is not known: it was there before the first host policy.
 * A connection is in its middle, and the smaller port is taken for the server's.
 */
static __always_inline bool answers(const struct packet *p)
{
	return p->protocol == IPPROTO_TCP && !(p->tcp_flags & TCP_SYN) && BE16(p->sport_be) < BE16(p->dport_be);
}

/*
 * Tell whether the stack has turned a pod's packet round: it came in by fairlead_host, from a pod whose address was
 * checked then, and leaves by it again, for another pod. That is how a pod comes to a port that this node publishes.
 */
static __always_inline bool turned_round(const struct __sk_buff *skb)
{
	return skb->ingress_ifindex == skb->ifindex;
}

/*
 * Tell whether the stack's packet is the node's own word: it made it, or gave its name to a pod's answer in a flow that
 * was begun to the node. A beginning that is turned round under another name is nobody's.
 */
static __always_inline bool speaks_as_host(const struct __sk_buff *skb, const struct flow *flow, bool reply)
{
	return !skb->ingress_ifindex || (turned_round(skb) && flow && flow->flags & FLOW_HOST && reply);
}

/*
 * Put this node in the place of an end that it is. What it forwards for others in its own name (masqueraded containers)
 * is not its own, and neither are the answers; but what was sent to the node and is answered by others (a published
 * port) is.
 */
static __always_inline void seat_host(const struct __sk_buff *skb, struct packet *p, int origin,
				      const struct flow *flow, bool reply, struct parties *who)
{
	bool forwarded = skb->ingress_ifindex && (!flow || flow->flags & FLOW_STACK);

	if (origin == ORIGIN_UPLINK) {
		who->source_endpoint = forwarded ? 0 : HOST_ENDPOINT;
		who->destination_endpoint = 0;
		return;
	}
	if (origin == ORIGIN_HOST) {
		if (!who->source_endpoint && speaks_as_host(skb, flow, reply))
			who->source_endpoint = HOST_ENDPOINT;
		return;
	}
	if (origin != ORIGIN_POD && !who->source_endpoint && is_own(&p->source))
		who->source_endpoint = HOST_ENDPOINT;
	if (who->destination_endpoint)
		return;
	if (flow && flow->flags & FLOW_STACK)
		who->destination_endpoint = flow->flags & FLOW_HOST ? HOST_ENDPOINT : 0;
	else if (is_own(&p->destination))
		who->destination_endpoint = HOST_ENDPOINT;
}

/* Return the endpoint whose policy has no say: this node, if its port of the flow is failsafe; else 0. */
static __always_inline __u32 exempt_from_policy(const struct packet *p, const struct parties *who, bool reply)
{
	struct failsafe_key wanted = {.protocol = p->protocol};
	__u32 *endpoint;

	if (who->source_endpoint != HOST_ENDPOINT && who->destination_endpoint != HOST_ENDPOINT)
		return 0;
	wanted.port_be = reply ? p->sport_be : p->policy_port_be;
	wanted.direction = (who->source_endpoint == HOST_ENDPOINT) != reply;
	endpoint = failsafe.lookup(&wanted);
	return endpoint ? *endpoint : 0;
}
