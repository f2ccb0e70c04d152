"""The folder of a run: checkpoints, history, TensorBoard, pictures."""
