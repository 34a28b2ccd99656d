/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* What the programs know of the packet in hand, and small tools. */
#pragma once
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/pkt_cls.h>
#include "drop.h"
#include "abi.h"

#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
#define BE16(x)		 ((__u16)__builtin_bswap16(x))
#define BE32(x)		 ((__u32)__builtin_bswap32(x))
#define V4_MAPPED(ip_be) (((__u64)(ip_be) << 32) | 0xffff0000u)
#define V4_OF(word)	 ((__u32)((word) >> 32))
#else
#define BE16(x)		 ((__u16)(x))
#define BE32(x)		 ((__u32)(x))
#define V4_MAPPED(ip_be) (0x0000ffff00000000ull | (ip_be))
#define V4_OF(word)	 ((__u32)(word))
#endif

#define PROTOCOL_ICMPV6 58
#define PROTOCOL_SCTP	132

#define IDENTITY_HOST	     1
#define IDENTITY_WORLD	     2
#define IDENTITY_REMOTE_NODE 6

#define TCP_FIN 1
#define TCP_SYN 2
#define TCP_RST 4
#define TCP_ACK 16

#define ICMP_HEADER 8

#define FRAGMENT_FIRST 1
#define FRAGMENT_LATER 2

/* Where the packet was met. */
#define ORIGIN_POD     0
#define ORIGIN_NETWORK 1
#define ORIGIN_HOST    2
#define ORIGIN_OVERLAY 3
#define ORIGIN_UPLINK  4 /* on its way out */

struct packet {
	struct address source;
	struct address destination;
	__u16 sport_be; /* ICMP has no ports: see icmp_ports() */
	__u16 dport_be;
	__u16 policy_port_be; /* what a policy calls the port: for ICMP the type */
	__u16 l4_offset;
	__u32 fragment_id;
	__u32 tunnel_identity; /* who the sending node says the source is; 0: came by no tunnel */
	__u8 protocol;
	__u8 family; /* 4 or 6 */
	__u8 tcp_flags;
	__u8 fragment;
	__u8 icmp_error;     /* carries the head of another packet */
	__u8 unrecorded;     /* may pass, but begins no flow */
	__u16 outer_port_be; /* the packet came to this port of the node, and masquerade led it to a pod */
};

#define READ_ONCE(x)	     (*(volatile typeof(x) *)&(x))
#define WRITE_ONCE(x, value) (*(volatile typeof(x) *)&(x) = (value))
#define true		     1
#define false		     0

/* Return which end of its flow, and so whose side, a packet is met at; `origin` is known when compiling. */
static __always_inline __u8 direction_of(int origin)
{
	return origin == ORIGIN_POD || origin == ORIGIN_UPLINK;
}

/*
 * For what helpers read from the stack: written in words of eight bytes, it hides from the verifier what stood there
 * before. With halves (6.18) every older content counts as read, and every branch as a world of its own.
 */
#define ALIGNED __attribute__((aligned(8)))

static __always_inline void *start_of(const struct __sk_buff *skb)
{
	return (void *)(long)skb->data;
}

static __always_inline void *end_of(const struct __sk_buff *skb)
{
	/* otherwise the compiler keeps the address of the field over many uses, and the verifier refuses to read by it
	 */
	asm volatile("" : "+r"(skb));
	return (void *)(long)skb->data_end;
}

static __always_inline void write_gateway_mac(__u8 *mac)
{
	mac[0] = GATEWAY_MAC_0;
	mac[1] = GATEWAY_MAC_1;
	mac[2] = GATEWAY_MAC_2;
	mac[3] = 0;
	mac[4] = 0;
	mac[5] = 1;
}

static __always_inline bool is_icmp(const struct packet *p)
{
	return p->protocol == (p->family == 4 ? IPPROTO_ICMP : PROTOCOL_ICMPV6);
}

/* Make the first `wanted` bytes readable in place, or as many as the packet has. */
static __always_inline void make_linear(struct __sk_buff *skb, __u32 wanted)
{
	__u32 linear = (__u32)((long)end_of(skb) - (long)start_of(skb));

	if (wanted > skb->len)
		wanted = skb->len;
	if (linear < wanted)
		bpf_skb_pull_data(skb, wanted);
}

static __always_inline bool same_address(const struct address *a, const struct address *b)
{
	return a->word[0] == b->word[0] && a->word[1] == b->word[1];
}
