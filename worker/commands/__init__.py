"""The commands of `trt-worker`, one file each; app.py joins them."""
