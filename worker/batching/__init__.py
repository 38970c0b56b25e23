"""Requests -> batches in a lane's host memory, and outputs -> one answer per request."""
