"""The registry's rows over cluster.kv: tables, the machine's State, reads for the API, content."""
