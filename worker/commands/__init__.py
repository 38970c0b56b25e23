"""The commands of `trt-worker`, one file each; cli.py joins them."""
