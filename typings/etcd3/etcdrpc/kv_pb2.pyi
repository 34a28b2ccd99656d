class KeyValue:
    key: bytes
    value: bytes
    mod_revision: int
    create_revision: int

class Event:
    PUT: int
    DELETE: int
    type: int
    kv: KeyValue
