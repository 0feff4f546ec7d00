#include "textflag.h"

// The size of the guest's memory, which Go does not tell.
TEXT ·memoryBytes(SB), NOSPLIT, $0-8
	Get SP
	CurrentMemory
	I64ExtendI32U
	I64Const $65536
	I64Mul
	I64Store ret+0(FP)
	RET
