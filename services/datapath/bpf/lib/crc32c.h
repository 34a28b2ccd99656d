/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * SCTP's checksum for another port. A CRC is linear: what changes in it is the CRC of what has changed, carried past
 * the bytes that follow. To carry it past n bytes is to multiply by x^8n, so nothing of the packet need be read; it
 * takes some hundred steps, which only masqueraded SCTP pays for.
 */
#pragma once
#include <linux/ip.h>
#include <linux/ipv6.h>
#include "packet.h"

#define CRC32C_POLYNOMIAL 0x82f63b78u /* the lowest power in the highest bit, as in all of this */
#define CRC32C_BITS	  14	      /* of the longest packet's length */
#define SCTP_HEADER	  12
#define SCTP_CHECKSUM	  8

static __always_inline __u32 times_x(__u32 crc)
{
	return crc >> 1 ^ (CRC32C_POLYNOMIAL & -(crc & 1));
}

/* Return the product of two polynomials modulo CRC32c's. No branch: each would be two worlds to the verifier. */
static __always_inline __u32 times(__u32 a, __u32 b)
{
	__u32 product = 0;

#pragma clang loop unroll(disable)
	for (int i = 0; i < 32; i++) {
		product ^= b & -(a >> 31);
		a <<= 1;
		b = times_x(b);
	}
	return product;
}

/* Return what a CRC becomes by so many bytes of zero. */
static __always_inline __u32 pass_zeros(__u32 crc, __u32 bytes)
{
	if (bytes & 1)
		crc = times(crc, 0x00800000);
	if (bytes & 2)
		crc = times(crc, 0x00008000);
	if (bytes & 4)
		crc = times(crc, 0x82f63b78);
	if (bytes & 8)
		crc = times(crc, 0x6ea2d55c);
	if (bytes & 16)
		crc = times(crc, 0x18b8ea18);
	if (bytes & 32)
		crc = times(crc, 0x510ac59a);
	if (bytes & 64)
		crc = times(crc, 0xb82be955);
	if (bytes & 128)
		crc = times(crc, 0xb8fdb1e7);
	if (bytes & 256)
		crc = times(crc, 0x88e56f72);
	if (bytes & 512)
		crc = times(crc, 0x74c360a4);
	if (bytes & 1024)
		crc = times(crc, 0xe4172b16);
	if (bytes & 2048)
		crc = times(crc, 0x0d65762a);
	if (bytes & 4096)
		crc = times(crc, 0x35d73a62);
	if (bytes & 8192)
		crc = times(crc, 0x28461564);
	return crc;
}

/* Return the length of the transport part by the IP header: the frame may be longer. */
static __always_inline __u32 transport_length(struct __sk_buff *skb, const struct packet *p)
{
	struct ipv6hdr *ip6 = start_of(skb) + ETH_HLEN;
	struct iphdr *ip4 = start_of(skb) + ETH_HLEN;
	__u32 total = 0;

	if ((void *)(ip6 + 1) <= end_of(skb) && p->family == 6)
		total = BE16(ip6->payload_len) + sizeof(*ip6);
	else if ((void *)(ip4 + 1) <= end_of(skb) && p->family == 4)
		total = BE16(ip4->tot_len);
	return total + ETH_HLEN - p->l4_offset;
}

/*
 * Make the checksum good for another port at `at` behind the start of the SCTP header. Zero stays: it is computed on
 * the packet's way out, and covers the new port. Returns 0 or a reason.
 */
static __always_inline int amend_crc32c(struct __sk_buff *skb, const struct packet *p, __u32 at, __u16 old_be,
					__u16 new_be)
{
	__u32 length = transport_length(skb, p), crc = (__u16)(old_be ^ new_be);
	__u8 *header;
	__u32 *sum;

	/* it covers the fragments that follow, too */
	if (p->fragment)
		return DROP_NO_MASQUERADE;
	make_linear(skb, p->l4_offset + SCTP_HEADER);
	header = start_of(skb) + (p->l4_offset & 0x3fff);
	if ((void *)(header + SCTP_HEADER) > end_of(skb))
		return DROP_TRUNCATED;
	sum = (__u32 *)(header + SCTP_CHECKSUM);
	if (!*sum)
		return 0;
	if (length < SCTP_HEADER || length >> CRC32C_BITS)
		return DROP_TRUNCATED;
#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
	crc = __builtin_bswap16(crc);
#endif
#pragma clang loop unroll(disable)
	for (int i = 0; i < 16; i++)
		crc = times_x(crc);
	crc = pass_zeros(crc, length - at - 2);
#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
	crc = __builtin_bswap32(crc);
#endif
	*sum ^= crc;
	return 0;
}
