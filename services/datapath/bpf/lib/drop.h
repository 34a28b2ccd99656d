/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * Why a packet was dropped. Numbers travel in events, metrics and people's notes: append only, never renumber.
 * Below 220 a number means what it means in Cilium; from 220 on it is ours. `DropReason` in operations.py is the twin.
 */
#pragma once

#define DROP_INVALID_SOURCE	132 /* source address is not the sender's */
#define DROP_POLICY		133 /* no policy entry allows it */
#define DROP_INVALID_PACKET	134 /* header lengths contradict each other */
#define DROP_TRUNCATED		135 /* transport header is cut short */
#define DROP_TOO_BIG		136 /* larger than the way */
#define DROP_UNKNOWN_L3		139 /* neither IPv4, IPv6 nor ARP */
#define DROP_WRITE_ERROR	141 /* the packet could not be rewritten */
#define DROP_UNKNOWN_L4		142 /* transport protocol is not TCP, UDP, SCTP or ICMP */
#define DROP_NO_TUNNEL_KEY	147 /* came by the tunnel's device without a tunnel's header */
#define DROP_UNKNOWN_TARGET	150 /* address of this node's prefix that no endpoint has */
#define DROP_FLOW_TABLE		155 /* the flow could not be recorded */
#define DROP_INVALID_EXTENSION	156 /* IPv6 extension headers are malformed or too many */
#define DROP_FRAGMENT_TABLE	157 /* the first fragment could not be recorded */
#define DROP_NO_TUNNEL		160 /* the far end's node is not known any more */
#define DROP_NO_MAPPING		167 /* masquerade: no port is free, or nothing is known of the flow */
#define DROP_NO_MASQUERADE	168 /* protocol that cannot be masqueraded */
#define DROP_FIB		169 /* no route */
#define DROP_INVALID_IDENTITY	171 /* a tunnel may not speak for this node, or for nobody */
#define DROP_UNKNOWN_SENDER	172 /* tunnel from an address that is no node's */
#define DROP_FRAGMENT_NOT_FOUND 175 /* first fragment was not seen */
#define DROP_FORBIDDEN_ICMP6	176 /* neighbour discovery that pods have no use for */
#define DROP_POLICY_DENY	181 /* a deny entry */
#define DROP_VLAN		182 /* VLAN tag from a pod */
#define DROP_TTL_EXCEEDED	196 /* time to live or hop limit ran out */
#define DROP_HELD		220 /* endpoint is held: identity or policy not known yet */
#define DROP_NO_PROXY		221 /* entry wants an L7 proxy and there is none */
#define DROP_INTERNAL		222 /* a map that must exist did not answer */
