"""The library that Fairlead's services share: bus, store, schema. It knows no service and holds no domain rule."""

__version__ = "0.1.0"
