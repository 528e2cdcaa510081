//! The memory functions that the compiler calls. In assembly, since a loop in Rust would become a call to itself.

use core::arch::global_asm;

global_asm!(
    r#"
    .section .text.memory, "ax", @progbits
    .global memcpy, memmove, memset, memcmp, bcmp, strlen
    .balign 16
memmove:
    mov rax, rdi
    sub rax, rsi
    cmp rax, rdx
    jb 50f                      /* the destination starts inside the source: from the end */
memcpy:
    mov rax, rdi
    cmp rdx, 16
    jb 20f
    cmp rdx, 32
    ja 10f
    movups xmm0, [rsi]
    movups xmm1, [rsi + rdx - 16]
    movups [rdi], xmm0
    movups [rdi + rdx - 16], xmm1
    ret
10: movups xmm4, [rsi + rdx - 16]       /* the last 16 bytes, stored after the loop */
    lea r8, [rdi + rdx - 16]
    movups xmm5, [rsi + rdx - 32]
    cmp rdx, 64
    jb 13f
11: movups xmm0, [rsi]
    movups xmm1, [rsi + 16]
    movups xmm2, [rsi + 32]
    movups xmm3, [rsi + 48]
    movups [rdi], xmm0
    movups [rdi + 16], xmm1
    movups [rdi + 32], xmm2
    movups [rdi + 48], xmm3
    add rsi, 64
    add rdi, 64
    sub rdx, 64
    cmp rdx, 64
    jae 11b
    test rdx, rdx
    jz 14f
    cmp rdx, 32
    jbe 14f
13: movups xmm0, [rsi]
    movups xmm1, [rsi + 16]
    movups [rdi], xmm0
    movups [rdi + 16], xmm1
14: movups [r8 - 16], xmm5
    movups [r8], xmm4
    ret
20: cmp edx, 8
    jb 21f
    mov rcx, [rsi]
    mov r8, [rsi + rdx - 8]
    mov [rdi], rcx
    mov [rdi + rdx - 8], r8
    ret
21: cmp edx, 4
    jb 22f
    mov ecx, [rsi]
    mov r8d, [rsi + rdx - 4]
    mov [rdi], ecx
    mov [rdi + rdx - 4], r8d
    ret
22: test edx, edx
    jz 23f
    movzx ecx, byte ptr [rsi]
    movzx r8d, byte ptr [rsi + rdx - 1]
    mov r9d, edx
    shr r9d, 1
    movzx r10d, byte ptr [rsi + r9]
    mov [rdi], cl
    mov [rdi + r9], r10b
    mov [rdi + rdx - 1], r8b
23: ret

50: mov rax, rdi
    cmp rdx, 16
    jb 20b                      /* loads everything before it stores */
51: cmp rdx, 64
    jb 52f
    movups xmm0, [rsi + rdx - 16]
    movups xmm1, [rsi + rdx - 32]
    movups xmm2, [rsi + rdx - 48]
    movups xmm3, [rsi + rdx - 64]
    movups [rdi + rdx - 16], xmm0
    movups [rdi + rdx - 32], xmm1
    movups [rdi + rdx - 48], xmm2
    movups [rdi + rdx - 64], xmm3
    sub rdx, 64
    jmp 51b
52: cmp rdx, 16
    jb 53f
    movups xmm0, [rsi + rdx - 16]
    movups [rdi + rdx - 16], xmm0
    sub rdx, 16
    jmp 52b
53: jmp 20b

    .balign 16
memset:
    mov rax, rdi
    movzx esi, sil
    mov rcx, 0x0101010101010101
    imul rsi, rcx
    cmp rdx, 16
    jb 2f
    movq xmm0, rsi
    punpcklqdq xmm0, xmm0
    movups [rdi + rdx - 16], xmm0
    cmp rdx, 64
    jb 3f
1:  movups [rdi], xmm0
    movups [rdi + 16], xmm0
    movups [rdi + 32], xmm0
    movups [rdi + 48], xmm0
    add rdi, 64
    sub rdx, 64
    cmp rdx, 64
    jae 1b
3:  cmp rdx, 16
    jb 4f
    movups [rdi], xmm0
    add rdi, 16
    sub rdx, 16
    jmp 3b
4:  ret
2:  cmp edx, 8
    jb 5f
    mov [rdi], rsi
    mov [rdi + rdx - 8], rsi
    ret
5:  test edx, edx
    jz 4b
    mov [rdi], sil
    inc rdi
    dec edx
    jmp 5b

    .balign 16
memcmp:
bcmp:
    xor ecx, ecx
1:  lea r8, [rcx + 8]
    cmp r8, rdx
    ja 2f
    mov r9, [rdi + rcx]
    cmp r9, [rsi + rcx]
    jne 2f
    mov rcx, r8
    jmp 1b
2:  cmp rcx, rdx
    jae 3f
    movzx eax, byte ptr [rdi + rcx]
    movzx r8d, byte ptr [rsi + rcx]
    inc rcx
    sub eax, r8d
    jz 2b
    ret
3:  xor eax, eax
    ret

    .balign 16
strlen:
    xor eax, eax
1:  cmp byte ptr [rdi + rax], 0
    je 2f
    inc rax
    jmp 1b
2:  ret
"#
);
