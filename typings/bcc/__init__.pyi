from typing import Any

class Function:
    fd: int
    name: bytes

class Table:
    map_fd: int

class BPF:
    SCHED_CLS: int
    module: Any
    def __init__(self, *, text: str = ..., cflags: list[str] = ..., debug: int = ...) -> None: ...
    def load_func(self, func_name: str, prog_type: int) -> Function: ...
    def __getitem__(self, key: str) -> Table: ...
    def cleanup(self) -> None: ...

class _Library:
    def bpf_table_key_size(self, module: Any, name: bytes) -> int: ...
    def bpf_table_leaf_size(self, module: Any, name: bytes) -> int: ...

lib: _Library
