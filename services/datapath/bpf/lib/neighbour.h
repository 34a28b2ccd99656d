/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * Answers for the gateway, which no machine is: a pod that asks for any address gets the MAC that the host side of
 * every pair has. It is one and the same, so that the answer needs no look-up.
 */
#pragma once
#include <linux/ipv6.h>
#include "events.h"

#define NEIGHBOUR_SOLICITATION	135
#define NEIGHBOUR_ADVERTISEMENT 136

struct arp_ipv4 {
	__u16 hardware_be;
	__u16 protocol_be;
	__u8 hardware_length;
	__u8 protocol_length;
	__u16 operation_be;
	__u8 sender_mac[6];
	__u16 sender_ip[2];
	__u8 target_mac[6];
	__u16 target_ip[2];
};

static __always_inline int answer_arp(struct __sk_buff *skb)
{
	struct ethhdr *eth = start_of(skb);
	struct arp_ipv4 *arp = (void *)(eth + 1);
	__u16 asked[2];

	if ((void *)(arp + 1) > end_of(skb) || arp->operation_be != BE16(1) || arp->protocol_be != BE16(ETH_P_IP) ||
	    arp->hardware_length != 6 || arp->protocol_length != 4)
		return drop_quietly(skb, DROP_INVALID_PACKET, EGRESS);
	__builtin_memcpy(asked, arp->target_ip, 4);
	/* who asks for itself looks for a double of its address: there is none */
	if (asked[0] == arp->sender_ip[0] && asked[1] == arp->sender_ip[1])
		return TC_ACT_SHOT;
	arp->operation_be = BE16(2);
	__builtin_memcpy(arp->target_mac, arp->sender_mac, 6);
	__builtin_memcpy(arp->target_ip, arp->sender_ip, 4);
	write_gateway_mac(arp->sender_mac);
	__builtin_memcpy(arp->sender_ip, asked, 4);
	__builtin_memcpy(eth->h_dest, eth->h_source, 6);
	write_gateway_mac(eth->h_source);
	count(skb, 0, EGRESS);
	return bpf_redirect(skb->ifindex, 0);
}

/* A solicitation and an advertisement, each with its one option: the same 32 bytes. */
struct neighbour_message {
	__u8 type;
	__u8 code;
	__u16 checksum;
	__u32 flags_be;
	__u8 target[16];
	__u8 option;
	__u8 option_length; /* in units of 8 bytes */
	__u8 mac[6];
};
struct pseudo_header {
	__u8 source[16];
	__u8 destination[16];
	__u32 length_be;
	__u32 next_be;
};

static __always_inline __u16 neighbour_checksum(const struct ipv6hdr *ip, struct neighbour_message *message)
{
	struct pseudo_header pseudo;
	__u32 sum;

	__builtin_memcpy(pseudo.source, &ip->saddr, 16);
	__builtin_memcpy(pseudo.destination, &ip->daddr, 16);
	pseudo.length_be = BE32(sizeof(*message));
	pseudo.next_be = BE32(PROTOCOL_ICMPV6);
	sum = bpf_csum_diff(0, 0, (__u32 *)&pseudo, sizeof(pseudo), 0);
	sum = bpf_csum_diff(0, 0, (__u32 *)message, sizeof(*message), sum);
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return ~sum;
}

static __always_inline int answer_solicitation(struct __sk_buff *skb)
{
	struct neighbour_message answer = {.type = NEIGHBOUR_ADVERTISEMENT, .option = 2, .option_length = 1};
	struct neighbour_message *asked;
	struct ethhdr *eth;
	struct ipv6hdr *ip;

	make_linear(skb, ETH_HLEN + sizeof(*ip) + sizeof(answer));
	eth = start_of(skb);
	ip = (void *)(eth + 1);
	asked = (void *)(ip + 1);
	if ((void *)(asked + 1) > end_of(skb) || ip->payload_len != BE16(sizeof(answer)) || ip->hop_limit != 255)
		return drop_quietly(skb, DROP_FORBIDDEN_ICMP6, EGRESS);
	answer.flags_be = BE32(0xe0000000); /* router, solicited, override */
	__builtin_memcpy(answer.target, asked->target, 16);
	write_gateway_mac(answer.mac);
	ip->daddr = ip->saddr;
	__builtin_memcpy(&ip->saddr, answer.target, 16);
	answer.checksum = neighbour_checksum(ip, &answer);
	__builtin_memcpy(asked, &answer, sizeof(answer));
	__builtin_memcpy(eth->h_dest, eth->h_source, 6);
	write_gateway_mac(eth->h_source);
	count(skb, 0, EGRESS);
	return bpf_redirect(skb->ifindex, 0);
}

/*
 * Neighbour discovery never leaves the link, and on this link there is only us. Returns an action, or -1 for a packet
 * that is something else.
 */
static __always_inline int answer_discovery(struct __sk_buff *skb, const struct packet *p)
{
	__u8 *type = start_of(skb) + ETH_HLEN + sizeof(struct ipv6hdr);
	__u8 *destination = (__u8 *)&p->destination;

	if (p->protocol == PROTOCOL_ICMPV6 && p->l4_offset == ETH_HLEN + sizeof(struct ipv6hdr)) {
		if ((void *)(type + 1) > end_of(skb))
			return drop_quietly(skb, DROP_TRUNCATED, EGRESS);
		/* without a source address it looks for a double of its own: there is none */
		if (*type == NEIGHBOUR_SOLICITATION && (p->source.word[0] || p->source.word[1]))
			return answer_solicitation(skb);
		if (*type >= 130 && *type <= 137)
			return drop_quietly(skb, DROP_FORBIDDEN_ICMP6, EGRESS);
	}
	/* multicast, and what says it comes from the link: chatter that policies have no words for */
	if (destination[0] == 0xff || (p->source.word[0] == 0 && p->source.word[1] == 0) ||
	    *(__u16 *)&p->source == BE16(0xfe80))
		return drop_quietly(skb, DROP_FORBIDDEN_ICMP6, EGRESS);
	return -1;
}
