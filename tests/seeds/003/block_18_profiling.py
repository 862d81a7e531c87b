# Simple profiler (text output)
trainer = L.Trainer(profiler="simple")

# Advanced profiler (detailed breakdown)
trainer = L.Trainer(profiler="advanced")

# PyTorch profiler (with trace)
from lightning.pytorch.profilers import PyTorchProfiler

profiler = PyTorchProfiler(
    dirpath="profiler_logs",
    filename="perf_logs",
    schedule=torch.profiler.schedule(wait=1, warmup=1, active=3, repeat=2),
    on_trace_ready=torch.profiler.tensorboard_trace_handler("./log"),
)
trainer = L.Trainer(profiler=profiler)
