"""The self-hosted server: batches that form by themselves, behind doors that other people's tools know."""
