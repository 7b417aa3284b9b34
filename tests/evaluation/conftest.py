"""Here so that folders below find the sets beside it: pytest puts it on the path."""
