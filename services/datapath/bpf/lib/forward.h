/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* Where an allowed packet goes. */
#pragma once
#include <linux/ip.h>
#include <linux/ipv6.h>
#include "errors.h"
#include "masquerade.h"

#define FIB_SUCCESS  0
#define FIB_TOO_BIG  8
#define FIB_NO_NEIGH 7
/* A length that every way has room for. The answer replaces it by the MTU, from 5.12 on and if the neighbour is known.
 */
#define ASK_MTU	    1
#define MTU_UNKNOWN 0xffff
#define INET	    2
#define INET6	    10

struct neighbour {
	__u32 family;
	__u32 address[4];
};

/* BCC 0.26 declares this helper without its `params`. */
static long (*redirect_neigh)(__u32 ifindex, struct neighbour *params, int length,
			      __u64 flags) = (void *)BPF_FUNC_redirect_neigh;

static __always_inline int decrement_ttl(struct __sk_buff *skb, __u8 family)
{
	if (family == 4) {
		struct iphdr *ip = start_of(skb) + ETH_HLEN;
		__u32 sum;

		if ((void *)(ip + 1) > end_of(skb))
			return DROP_WRITE_ERROR;
		if (ip->ttl <= 1)
			return DROP_TTL_EXCEEDED;
		/* RFC 1141: one less in the high byte is one more in the complement */
		sum = (__u32)ip->check + BE16(0x0100);
		ip->check = (__u16)(sum + (sum >= 0xffff));
		ip->ttl--;
	} else {
		struct ipv6hdr *ip = start_of(skb) + ETH_HLEN;

		if ((void *)(ip + 1) > end_of(skb))
			return DROP_WRITE_ERROR;
		if (ip->hop_limit <= 1)
			return DROP_TTL_EXCEEDED;
		ip->hop_limit--;
	}
	return 0;
}

/* Hand the packet to a local endpoint. Returns a drop reason, or 0 with the action in `action`. */
static __always_inline int to_endpoint(struct __sk_buff *skb, const struct packet *p,
				       const struct endpoint_state *state, int origin, int *action)
{
	int reason = origin == ORIGIN_HOST ? 0 : decrement_ttl(skb, p->family);
	__u32 *ethernet = start_of(skb);
	const __u32 *addresses = (const __u32 *)state->pod_mac;

	if (reason)
		return reason;
	if ((void *)ethernet + ETH_HLEN > end_of(skb))
		return DROP_WRITE_ERROR;
	ethernet[0] = addresses[0];
	ethernet[1] = addresses[1];
	ethernet[2] = addresses[2];
	/* only an ingress hook may hand over to the peer at once */
	*action = origin == ORIGIN_HOST ? bpf_redirect(state->ifindex, 0) : bpf_redirect_peer(state->ifindex, 0);
	return 0;
}

static __always_inline void fill_fib(struct bpf_fib_lookup *fib, const struct packet *p, __u32 ifindex)
{
	fib->family = p->family == 4 ? INET : INET6;
	fib->l4_protocol = p->protocol;
	fib->sport = p->sport_be;
	fib->dport = p->dport_be;
	fib->ifindex = ifindex;
	if (p->family == 4) {
		fib->ipv4_src = V4_OF(p->source.word[1]);
		fib->ipv4_dst = V4_OF(p->destination.word[1]);
	} else {
		__builtin_memcpy(fib->ipv6_src, &p->source, 16);
		__builtin_memcpy(fib->ipv6_dst, &p->destination, 16);
	}
}

/*
 * Hand the packet to this node's own stack, as if it had come in by fairlead_host: the stack's routes to the pods leave
 * by that device, so that reverse path filtering finds nothing strange.
 */
static __always_inline int to_stack(const struct settings *config)
{
	return bpf_redirect(config->host_ifindex, BPF_F_INGRESS);
}

/*
 * Ask the host's routes for the way off the node, as if the packet came in by fairlead_host, so that forwarding need be
 * enabled on no other device. Returns 0 or a drop reason.
 */
static __always_inline int find_hop(struct __sk_buff *skb, const struct packet *p, const struct settings *config,
				    struct neighbour *next, __u32 *ifindex, __u32 *mtu)
{
	struct bpf_fib_lookup fib ALIGNED = {};
	int result;

	fill_fib(&fib, p, config->host_ifindex);
	fib.tot_len = ASK_MTU;
	result = bpf_fib_lookup(skb, &fib, sizeof(fib), 0);
	if (result == FIB_TOO_BIG)
		return DROP_TOO_BIG;
	if (result != FIB_SUCCESS && result != FIB_NO_NEIGH)
		return DROP_FIB;
	/* our own prefix, and yet nobody's address */
	if (fib.ifindex == config->host_ifindex)
		return DROP_UNKNOWN_TARGET;
	*ifindex = fib.ifindex;
	*mtu = fib.tot_len;
	/* with tunnels `config->mtu` is theirs: the stack would send on what is refused here */
	if (fib.tot_len == ASK_MTU)
		*mtu = config->tunnel_ifindex ? MTU_UNKNOWN : config->mtu;
	next->family = fib.family;
	__builtin_memcpy(next->address, fib.ipv6_dst, 16);
	return 0;
}

static __always_inline void keep_hop(struct flow *flow, const struct settings *config, const struct neighbour *next,
				     __u32 ifindex, __u32 mtu)
{
	flow->hop_ifindex = ifindex;
	flow->hop_mtu = mtu;
	flow->hop_family = next->family;
	__builtin_memcpy(flow->hop_address, next->address, 16);
	flow->hop_until = bpf_jiffies64() + config->second / 100 + 1;
}

/* Find a masqueraded flow's way off the node, and have an outer end for it that fits the way. Returns 0 or a reason. */
static __always_inline int find_outer_end(struct __sk_buff *skb, const struct packet *p, const struct settings *config,
					  struct flow *flow, struct flow_key *inner)
{
	struct neighbour next = {};
	__u32 ifindex = 0, mtu = 0;
	int reason = find_hop(skb, p, config, &next, &ifindex, &mtu);

	if (!reason)
		reason = map_flow(p, config, flow, ifindex, inner);
	if (!reason)
		keep_hop(flow, config, &next, ifindex, mtu);
	return reason;
}

/*
 * Send the packet off the node. The look-up costs more than all else together, so a busy flow asks once in 10 ms; that
 * is how long a route that went may still be used.
 */
static __always_inline int to_network(struct __sk_buff *skb, const struct packet *p, const struct settings *config,
				      struct flow *flow, int *action)
{
	__u64 now = bpf_jiffies64();
	struct neighbour next ALIGNED = {};
	__u32 ifindex = 0, mtu = 0;
	int reason;

	if (flow && now < flow->hop_until && flow->hop_mtu) {
		ifindex = flow->hop_ifindex;
		mtu = flow->hop_mtu;
		next.family = flow->hop_family;
		__builtin_memcpy(next.address, flow->hop_address, 16);
	} else {
		reason = find_hop(skb, p, config, &next, &ifindex, &mtu);
		if (reason)
			return reason;
		if (flow)
			keep_hop(flow, config, &next, ifindex, mtu);
	}
	if (too_big(skb, p, mtu))
		return DROP_TOO_BIG;
	reason = decrement_ttl(skb, p->family);
	if (!reason && flow && flow->flags & FLOW_MASQUERADED)
		reason = masquerade_packet(skb, p, flow);
	if (reason)
		return reason;
	*action = redirect_neigh(ifindex, &next, sizeof(next), 0);
	return 0;
}
