# Use Flash Attention (auto-enabled in PyTorch 2.0+)
import torch.nn.functional as F

attn_output = F.scaled_dot_product_attention(
    query, key, value,
    is_causal=True,  # For autoregressive models
)
