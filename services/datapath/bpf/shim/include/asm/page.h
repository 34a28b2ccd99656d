/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* BCC's stack helpers name the page size; our programs do not use it. */
#pragma once
#define PAGE_SIZE 4096
