"""What puts load on the services: client processes, each started by harness.load."""
