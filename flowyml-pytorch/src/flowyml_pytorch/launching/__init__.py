"""Steps in several processes, on torch's elastic agent and its process groups."""
