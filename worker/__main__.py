"""`python -m worker` is `trt-worker`."""

from worker.cli import main

if __name__ == "__main__":
    main()
