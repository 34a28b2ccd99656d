/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* The programs ask for no kernel version: what a kernel lacks, the loader reports. */
#pragma once
#define LINUX_VERSION_CODE 0x060000
#define KERNEL_VERSION(a, b, c) (((a) << 16) + ((b) << 8) + (c))
