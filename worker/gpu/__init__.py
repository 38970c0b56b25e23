"""TensorRT on one CUDA device: pinned -> H2D -> execute_async_v3 -> D2H -> pinned, on several lanes at once.

flavour (the one import of TensorRT), cuda_runtime (the one import of CUDA), builder (ONNX -> plan);
loading (plan -> backend): device -> plan -> lane (memory, context, graphs) -> self_test -> backend; or shortage
"""
