"""Several processes that consume, decode and publish, and the one that runs their batches.

    intake process (index 0 … N-1)                       engine process (the parent)
      pipeline.py, kafka/, codec/, batching/
      backend.py: a seat is opened, filled, launched ──messages.py──> server.py: a lane takes the seat and runs it
      backend.py: the seat's outputs are read <───────messages.py──── server.py: done, or failed and why
      link.py: asked for a report, told to stop <─────process.py────── supervisor.py: starts, restarts, stops

Inputs and outputs lie in memory that both have mapped (memory.py); through the sockets go a few dozen bytes a batch.
"""
