"""The engine repository: ONNX -> plan + manifest on disk, and which plan fits this GPU.

onnx_model (what the file says) -> profiles, precision -> building (under lock) -> repository (plan, manifest) -> select
"""
