"""Steps of parameters that are sharded over ranks: FSDP2, HSDP, tensor parallelism, and mixtures of them."""
