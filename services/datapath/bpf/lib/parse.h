/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* From bytes to `struct packet`. Each function returns 0 or a drop reason; nothing is trusted before it is measured. */
#pragma once
#include <linux/ip.h>
#include <linux/ipv6.h>
#include "moving.h"

#define MAX_EXTENSIONS 5

/*
 * What is parsed in place without asking for more: a TCP header behind an IP header. Not a byte more: TCP sends its
 * data apart from its headers, and to make one byte of it linear costs more than everything else that is done to the
 * packet.
 */
static __always_inline __u32 headers_length(const struct __sk_buff *skb)
{
	return ETH_HLEN + (skb->protocol == BE16(ETH_P_IPV6) ? 40 : 20) + 20;
}

static __always_inline int parse_ipv4(struct __sk_buff *skb, struct packet *p)
{
	struct iphdr *ip = start_of(skb) + ETH_HLEN;
	__u16 offset, total;

	if ((void *)(ip + 1) > end_of(skb) || ip->version != 4 || ip->ihl < 5)
		return DROP_INVALID_PACKET;
	total = BE16(ip->tot_len);
	/* 0: a segmentation-offloaded packet above 64 KiB */
	if (total && (total < ip->ihl * 4 || total + ETH_HLEN > skb->len))
		return DROP_INVALID_PACKET;
	p->family = 4;
	p->source.word[0] = 0;
	p->source.word[1] = V4_MAPPED(ip->saddr);
	p->destination.word[0] = 0;
	p->destination.word[1] = V4_MAPPED(ip->daddr);
	p->protocol = ip->protocol;
	p->l4_offset = ETH_HLEN + ip->ihl * 4;
	offset = BE16(ip->frag_off);
	if (offset & 0x3fff) {
		p->fragment = offset & 0x1fff ? FRAGMENT_LATER : FRAGMENT_FIRST;
		p->fragment_id = ip->id;
		/* RFC 1858: such a fragment would overwrite the flags that were judged */
		if (p->protocol == IPPROTO_TCP && (offset & 0x1fff) == 1)
			return DROP_INVALID_PACKET;
	}
	if (p->l4_offset > ETH_HLEN + sizeof(*ip))
		make_linear(skb, p->l4_offset + 20);
	return 0;
}

struct extension {
	__u8 next;
	__u8 length;
	__u16 offset_be; /* fragment header only */
	__u32 id;
};

/* Walk the IPv6 extension headers that may precede the transport header. */
static __always_inline int skip_extensions(struct __sk_buff *skb, struct packet *p)
{
	__u32 offset = ETH_HLEN + sizeof(struct ipv6hdr);
	__u8 next = p->protocol;
	struct extension ext;

#pragma unroll
	for (int i = 0; i < MAX_EXTENSIONS; i++) {
		if (next != 0 && next != 43 && next != 44 && next != 51 && next != 60)
			break;
		if (bpf_skb_load_bytes(skb, offset, &ext, sizeof(ext)))
			return DROP_INVALID_EXTENSION;
		if (next == 44) {
			__u16 where = BE16(ext.offset_be);

			/* offset 0 and no more to come: an atomic fragment, whole in itself */
			if (where & 0xfff9) {
				p->fragment = where & 0xfff8 ? FRAGMENT_LATER : FRAGMENT_FIRST;
				p->fragment_id = ext.id;
			}
			if (ext.next == IPPROTO_TCP && (where >> 3) == 1)
				return DROP_INVALID_PACKET;
			offset += 8;
		} else {
			offset += next == 51 ? (ext.length + 2) * 4 : (ext.length + 1) * 8;
		}
		next = ext.next;
		/* behind the first header of a later fragment comes its data */
		if (p->fragment == FRAGMENT_LATER)
			break;
	}
	if (next == 0 || next == 43 || next == 44 || next == 51 || next == 60)
		return p->fragment == FRAGMENT_LATER ? DROP_FRAGMENT_NOT_FOUND : DROP_INVALID_EXTENSION;
	p->protocol = next;
	p->l4_offset = offset;
	make_linear(skb, offset + 20);
	return 0;
}

static __always_inline int parse_ipv6(struct __sk_buff *skb, struct packet *p)
{
	struct ipv6hdr *ip = start_of(skb) + ETH_HLEN;
	__u32 length;

	if ((void *)(ip + 1) > end_of(skb) || ip->version != 6)
		return DROP_INVALID_PACKET;
	length = BE16(ip->payload_len);
	/* 0: a jumbogram made by segmentation offload */
	if (length && length + ETH_HLEN + sizeof(*ip) > skb->len)
		return DROP_INVALID_PACKET;
	p->family = 6;
	__builtin_memcpy(&p->source, &ip->saddr, 16);
	__builtin_memcpy(&p->destination, &ip->daddr, 16);
	/* ::ffff:0:0/96 is an IPv4 address in our tables: no IPv6 packet may claim one */
	if ((p->source.word[0] == 0 && (__u32)p->source.word[1] == (__u32)V4_MAPPED(0)) ||
	    (p->destination.word[0] == 0 && (__u32)p->destination.word[1] == (__u32)V4_MAPPED(0)))
		return DROP_INVALID_PACKET;
	p->protocol = ip->nexthdr;
	p->l4_offset = ETH_HLEN + sizeof(*ip);
	if (p->protocol == IPPROTO_TCP || p->protocol == IPPROTO_UDP || p->protocol == PROTOCOL_ICMPV6)
		return 0;
	return skip_extensions(skb, p);
}

/*
 * ICMP in terms of ports: an echo is (identifier, request type), turned round for the reply, so that both fall on one
 * flow. Everything else is (0xffff, type), which no echo can be.
 */
static __always_inline void icmp_ports(struct packet *p, __u8 type, __u16 id_be)
{
	__u8 request = p->family == 4 ? 8 : 128;
	__u8 reply = p->family == 4 ? 0 : 129;

	p->policy_port_be = BE16(type);
	p->sport_be = 0xffff;
	p->dport_be = BE16(type);
	if (type == request) {
		p->sport_be = id_be;
	} else if (type == reply) {
		p->sport_be = BE16(request);
		p->dport_be = id_be;
		p->unrecorded = 1;
	} else if (p->family == 4 ? (type == 3 || type == 11 || type == 12) : type >= 1 && type <= 4) {
		p->icmp_error = 1;
		p->unrecorded = 1;
	}
}

/* Return the age of the machine in whole seconds; they wrap. */
static __always_inline __u16 now_in_s(void)
{
	__u32 zero = 0;
	struct settings *config = settings.lookup(&zero);
	__u32 second = config ? config->second : 0;

	return second ? bpf_jiffies64() / second : 0;
}

static __always_inline int remember_fragment(struct packet *p)
{
	struct fragment_key key = {.source = p->source, .destination = p->destination, .id = p->fragment_id};
	struct fragment *seen;

	key.protocol = p->protocol;
	if (p->fragment == FRAGMENT_FIRST) {
		struct fragment ports = {.sport_be = p->sport_be, .dport_be = p->dport_be};

		ports.policy_port_be = p->policy_port_be;
		ports.seen_s = now_in_s();
		share_fragment(&key, &ports);
		return fragments.update(&key, &ports) ? DROP_FRAGMENT_TABLE : 0;
	}
	bring_fragment(&key);
	seen = fragments.lookup(&key);
	if (!seen)
		return DROP_FRAGMENT_NOT_FOUND;
	p->sport_be = seen->sport_be;
	p->dport_be = seen->dport_be;
	p->policy_port_be = seen->policy_port_be;
	p->unrecorded = 1;
	return 0;
}

/* Read the ports; `record`: a first fragment leaves them to the later ones. */
static __always_inline int parse_l4(struct __sk_buff *skb, struct packet *p, bool record)
{
	/* the mask tells the verifier (6.18) what MAX_EXTENSIONS guarantees: it loses the range on the stack */
	__u8 *l4 = start_of(skb) + (p->l4_offset & 0x3fff);
	bool icmp = is_icmp(p);
	__u32 length = p->protocol == IPPROTO_TCP ? 20 : 8;

	if (!icmp && p->protocol != IPPROTO_TCP && p->protocol != IPPROTO_UDP && p->protocol != PROTOCOL_SCTP)
		return DROP_UNKNOWN_L4;
	if (p->fragment == FRAGMENT_LATER)
		return remember_fragment(p);
	if (length == 20) {
		if ((void *)(l4 + 20) > end_of(skb) || l4[12] < 0x50)
			return DROP_TRUNCATED;
		p->tcp_flags = l4[13];
	} else if ((void *)(l4 + 8) > end_of(skb)) {
		return DROP_TRUNCATED;
	}
	if (icmp) {
		icmp_ports(p, l4[0], *(__u16 *)(l4 + 4));
	} else {
		p->sport_be = *(__u16 *)l4;
		p->dport_be = *(__u16 *)(l4 + 2);
		p->policy_port_be = p->dport_be;
	}
	return p->fragment && record ? remember_fragment(p) : 0;
}
