/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* ICMP errors: they pass when the packet they quote belongs to a flow that is allowed now. */
#pragma once
#include "conntrack.h"
#include "parse.h"

/* Read the quoted transport header into `quoted`, which knows addresses and protocol already. */
static __always_inline bool read_quoted_ports(struct __sk_buff *skb, struct packet *quoted, __u32 offset)
{
	__u8 head[8];

	if (bpf_skb_load_bytes(skb, offset, head, sizeof(head)))
		return false;
	quoted->l4_offset = offset;
	if (is_icmp(quoted)) {
		icmp_ports(quoted, head[0], *(__u16 *)(head + 4));
		return !quoted->icmp_error;
	}
	quoted->sport_be = *(__u16 *)head;
	quoted->dport_be = *(__u16 *)(head + 2);
	return true;
}

static __always_inline bool read_quoted(struct __sk_buff *skb, const struct packet *p, struct packet *quoted)
{
	__u32 offset = p->l4_offset + ICMP_HEADER;
	__u8 head[40];

	quoted->family = p->family;
	if (p->family == 4) {
		if (bpf_skb_load_bytes(skb, offset, head, sizeof(struct iphdr)) || (head[0] & 0xf) < 5)
			return false;
		/* a quoted later fragment has no ports */
		if (*(__u16 *)(head + 6) & BE16(0x1fff))
			return false;
		quoted->protocol = head[9];
		quoted->source.word[1] = V4_MAPPED(*(__u32 *)(head + 12));
		quoted->destination.word[1] = V4_MAPPED(*(__u32 *)(head + 16));
		return read_quoted_ports(skb, quoted, offset + (head[0] & 0xf) * 4);
	}
	if (bpf_skb_load_bytes(skb, offset, head, sizeof(struct ipv6hdr)))
		return false;
	quoted->protocol = head[6];
	__builtin_memcpy(&quoted->source, head + 8, 16);
	__builtin_memcpy(&quoted->destination, head + 24, 16);
	return read_quoted_ports(skb, quoted, offset + sizeof(struct ipv6hdr));
}

/* Return the allowed flow of which the error quotes a packet that the error's receiver sent, or nothing. */
static __always_inline struct flow *related_flow(struct __sk_buff *skb, const struct packet *p, struct packet *quoted,
						 struct flow_key *key, const struct settings *config)
{
	struct flow *flow;

	if (!read_quoted(skb, p, quoted) || !same_address(&quoted->source, &p->destination))
		return 0;
	make_flow_key(key, &quoted->source, &quoted->destination, quoted->sport_be, quoted->dport_be);
	key->protocol = quoted->protocol;
	bring_flow(key);
	flow = conntrack.lookup(key);
	if (!flow || !flow_alive(flow, config, quoted->protocol) || flow->epoch != epoch_of_flow(flow, config))
		return 0;
	return flow;
}
