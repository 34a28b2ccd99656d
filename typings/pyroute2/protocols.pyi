ETH_P_ALL: int
