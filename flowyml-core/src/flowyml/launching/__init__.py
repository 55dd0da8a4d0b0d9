"""Steps in several processes: what goes to them, what they do, and what comes back.

The core starts no process. A launcher, which an adapter brings, starts the command of a job in
each process of a group; `launching.worker` is that command.
"""
