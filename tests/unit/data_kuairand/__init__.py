"""The KuaiRand converter."""
