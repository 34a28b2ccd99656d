/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* Another address and port in a packet, with every checksum, also of packets whose checksum is yet to be made. */
#pragma once
#include <linux/ip.h>
#include <linux/ipv6.h>
#include "crc32c.h"

/* Since 6.16: the pseudo header's change is not made good by an IP header's checksum. Refused by older kernels. */
#define CSUM_IPV6 (1ull << 7)

/* One end of a flow. */
struct end {
	struct address address;
	__u16 port_be;
};

/* Which end of a packet, and what it was and shall be. */
struct change {
	const struct end *from;
	const struct end *to;
	bool source;
};

/* Returns where the port of that end stands behind the start of the transport header. */
static __always_inline __u32 port_at(const struct packet *p, bool source)
{
	return is_icmp(p) ? 4 : source ? 0 : 2;
}

/* Write the address into the IP header at `offset`. Returns 0 or a reason. */
static __always_inline int write_address(struct __sk_buff *skb, __u8 family, __u32 offset, const struct change *change)
{
	void *header = start_of(skb) + (offset & 0x3fff);

	if (family == 4) {
		struct iphdr *ip = header;
		__u32 old = V4_OF(change->from->address.word[1]), new = V4_OF(change->to->address.word[1]);
		__u32 sum;

		if ((void *)(ip + 1) > end_of(skb))
			return DROP_WRITE_ERROR;
		/* RFC 1624 */
		sum = (__u16)~ip->check + (__u16)~old + (__u16) ~(old >> 16) + (__u16) new + (new >> 16);
		sum = (sum & 0xffff) + (sum >> 16);
		sum = (sum & 0xffff) + (sum >> 16);
		ip->check = ~sum;
		if (change->source)
			ip->saddr = new;
		else
			ip->daddr = new;
	} else {
		struct ipv6hdr *ip = header;

		if ((void *)(ip + 1) > end_of(skb))
			return DROP_WRITE_ERROR;
		__builtin_memcpy(change->source ? &ip->saddr : &ip->daddr, &change->to->address, 16);
	}
	return 0;
}

static __always_inline int write_port(struct __sk_buff *skb, __u32 offset, __u16 port_be)
{
	__u16 *port = start_of(skb) + (offset & 0x3fff);

	if ((void *)(port + 1) > end_of(skb))
		return DROP_WRITE_ERROR;
	*port = port_be;
	return 0;
}

/* Tell the transport checksum at `offset` of another address in the pseudo header. */
static __always_inline long pseudo_changed(struct __sk_buff *skb, __u8 family, __u32 offset,
					   const struct change *change, __u64 flags)
{
	__u64 difference;

	flags |= BPF_F_PSEUDO_HDR;
	if (family == 4)
		return bpf_l4_csum_replace(skb, offset, V4_OF(change->from->address.word[1]),
					   V4_OF(change->to->address.word[1]), flags | 4);
	difference = bpf_csum_diff((void *)&change->from->address, 16, (void *)&change->to->address, 16, 0);
	if (!bpf_l4_csum_replace(skb, offset, 0, difference, flags | CSUM_IPV6))
		return 0;
	return bpf_l4_csum_replace(skb, offset, 0, difference, flags);
}

/* Give the packet another end. Only the first fragment has ports and checksum. Returns 0 or a reason. */
static __always_inline int rewrite(struct __sk_buff *skb, const struct packet *p, const struct change *change)
{
	__u32 checksum = p->l4_offset + (p->protocol == IPPROTO_TCP ? 16 : p->protocol == IPPROTO_UDP ? 6 : 2);
	__u64 flags = p->protocol == IPPROTO_UDP ? BPF_F_MARK_MANGLED_0 : 0;
	int reason = write_address(skb, p->family, ETH_HLEN, change);

	if (reason || p->fragment == FRAGMENT_LATER)
		return reason;
	if (change->from->port_be != change->to->port_be) {
		reason = write_port(skb, p->l4_offset + port_at(p, change->source), change->to->port_be);
		if (reason)
			return reason;
		if (p->protocol == PROTOCOL_SCTP)
			return amend_crc32c(skb, p, port_at(p, change->source), change->from->port_be,
					    change->to->port_be);
		if (bpf_l4_csum_replace(skb, checksum, change->from->port_be, change->to->port_be, flags | 2))
			return DROP_WRITE_ERROR;
	}
	if (p->protocol == IPPROTO_ICMP || p->protocol == PROTOCOL_SCTP)
		return 0; /* know no addresses */
	return pseudo_changed(skb, p->family, checksum, change, flags) ? DROP_WRITE_ERROR : 0;
}

/*
 * Give an ICMP error another end, outside and in the packet that it quotes: the same end in both, which is the source
 * of the one and the destination of the other. The quoted transport checksum stays as it is; nobody can verify it.
 */
static __always_inline int rewrite_error(struct __sk_buff *skb, const struct packet *p, const struct packet *quoted,
					 const struct change *change)
{
	struct change inside = {.from = change->from, .to = change->to, .source = !change->source};
	__u32 checksum = p->l4_offset + 2;
	__u64 difference;
	int reason;

	make_linear(skb, quoted->l4_offset + 8);
	reason = write_address(skb, p->family, ETH_HLEN, change);
	if (!reason)
		reason = write_address(skb, p->family, p->l4_offset + ICMP_HEADER, &inside);
	if (!reason)
		reason = write_port(skb, quoted->l4_offset + port_at(quoted, inside.source), change->to->port_be);
	if (reason)
		return reason;
	if (bpf_l4_csum_replace(skb, checksum, change->from->port_be, change->to->port_be, 2))
		return DROP_WRITE_ERROR;
	if (p->family == 4)
		return 0; /* the quoted header's own checksum makes its address good */
	difference = bpf_csum_diff((void *)&change->from->address, 16, (void *)&change->to->address, 16, 0);
	if (bpf_l4_csum_replace(skb, checksum, 0, difference, 0))
		return DROP_WRITE_ERROR;
	return pseudo_changed(skb, 6, checksum, change, 0) ? DROP_WRITE_ERROR : 0;
}
