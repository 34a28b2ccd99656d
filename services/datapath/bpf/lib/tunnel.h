/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * The way to other nodes inside VXLAN or Geneve. One device in external mode carries all: a packet brings its tunnel
 * along, and the virtual network's number is the identity of its source.
 */
#pragma once
#include "forward.h"
#include "identity.h"

#define IDENTITY_BITS 24 /* that a virtual network's number has room for */

/* The part of `struct bpf_tunnel_key` that every kernel since 5.10 takes, whatever the headers say. */
struct tunnel_key {
	__u32 identity;
	__u32 remote[4]; /* IPv4: host order, in the first; IPv6: network order */
	__u8 tos;
	__u8 ttl;
	__u16 extension;
	__u32 label;
};

static __always_inline bool is_ipv4(const struct address *address)
{
	return address->word[0] == 0 && (__u32)address->word[1] == (__u32)V4_MAPPED(0);
}

/* Return the node that has the address, or nothing: then packets to it travel as they are. */
static __always_inline struct tunnel_to *tunnel_to(const struct address *address, __u8 family)
{
	struct prefix_key key ALIGNED = {.prefix_length = 32 + 128, .family = family};

	__builtin_memcpy(key.address, address, 16);
	return tunnels.lookup(&key);
}

/* Identities of prefixes have more bits: the receiver finds them by address, as for all of the world. */
static __always_inline __u32 network_number(__u32 identity)
{
	if (identity >> IDENTITY_BITS)
		return IDENTITY_WORLD;
	return identity == IDENTITY_HOST ? IDENTITY_REMOTE_NODE : identity;
}

/* Send the packet into the tunnel to `node`, whose device is `ifindex`. Returns 0 or a drop reason. */
static __always_inline int encapsulate(struct __sk_buff *skb, const struct address *node, __u32 ifindex, __u32 identity,
				       int *action)
{
	struct tunnel_key key ALIGNED = {.ttl = 64};
	__u64 flags = BPF_F_ZERO_CSUM_TX;

	key.identity = network_number(identity);
	if (is_ipv4(node)) {
		key.remote[0] = BE32(V4_OF(node->word[1]));
	} else {
		__builtin_memcpy(key.remote, node, 16);
		/* IPv6 has no checksum of its own: that of UDP stays */
		flags = BPF_F_TUNINFO_IPV6;
	}
	if (bpf_skb_set_tunnel_key(skb, &key, sizeof(key), flags))
		return DROP_WRITE_ERROR;
	*action = bpf_redirect(ifindex, 0);
	return 0;
}

/* Send a packet of a pod, or of a filtered node, to the node that has its destination. The node is asked for once in 10
 * ms, as `to_network` does.
 */
static __always_inline int to_tunnel(struct __sk_buff *skb, const struct packet *p, const struct settings *config,
				     struct flow *flow, __u32 identity, int origin, int *action)
{
	__u64 now = bpf_jiffies64();
	struct address node;
	struct tunnel_to *to;
	int reason;

	/* a packet that begins no flow may have left its way off the node in one that is over, and goes through tunnels
	 */
	if (flow && now < flow->hop_until && !flow->hop_mtu) {
		__builtin_memcpy(&node, flow->hop_address, 16);
	} else {
		to = tunnel_to(&p->destination, p->family);
		if (!to)
			return DROP_NO_TUNNEL;
		node = to->node;
		if (flow) {
			__builtin_memcpy(flow->hop_address, &node, 16);
			flow->hop_until = now + config->second / 100 + 1;
			flow->hop_mtu = 0;
		}
	}
	if (too_big(skb, p, config->mtu))
		return DROP_TOO_BIG;
	reason = origin == ORIGIN_HOST ? 0 : decrement_ttl(skb, p->family);
	if (reason)
		return reason;
	return encapsulate(skb, &node, config->tunnel_ifindex, identity, action);
}

/* Read who sent the tunnel's packet, and as whom. Only nodes that we know may say who somebody is. */
static __always_inline int read_tunnel(struct __sk_buff *skb, struct packet *p)
{
	struct tunnel_key key ALIGNED = {};
	struct address sender = {};
	struct identity_of *known;

	if (!bpf_skb_get_tunnel_key(skb, &key, sizeof(key), 0))
		sender.word[1] = V4_MAPPED(BE32(key.remote[0]));
	else if (!bpf_skb_get_tunnel_key(skb, &key, sizeof(key), BPF_F_TUNINFO_IPV6))
		__builtin_memcpy(&sender, key.remote, 16);
	else
		return DROP_NO_TUNNEL_KEY;
	known = ipcache.lookup(&sender);
	if (!known || known->identity != IDENTITY_REMOTE_NODE)
		return DROP_UNKNOWN_SENDER;
	if (!key.identity || key.identity == IDENTITY_HOST)
		return DROP_INVALID_IDENTITY;
	p->tunnel_identity = key.identity;
	return 0;
}

/* What the number of a network has no room for, the address tells. */
static __always_inline void refine_identity(struct packet *p)
{
	__u32 found;

	if (p->tunnel_identity != IDENTITY_WORLD && p->tunnel_identity != IDENTITY_REMOTE_NODE)
		return;
	found = identity_with(&p->source, p->family);
	if (found != IDENTITY_HOST && found != IDENTITY_WORLD)
		p->tunnel_identity = found;
}
