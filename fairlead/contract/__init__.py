"""The promise to other systems, made from the schema: an AsyncAPI document, and the bytes of one example of each message."""
