"""The world in which machines are tried: virtual time, a lossy network, disks that crash."""
