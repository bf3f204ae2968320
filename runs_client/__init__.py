"""The client library of both services, and the playbook-runs command."""
