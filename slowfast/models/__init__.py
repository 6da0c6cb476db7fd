"""UniFormer and the baselines, their weights and what is published of them."""
