//! The first instructions: boot headers, the way from 32-bit protected mode (Multiboot2, PVH) into the higher
//! half, and the real-mode page on which the other CPUs start.
//!
//! The code runs wherever a boot loader put it: `%esi` holds the distance between that and the link address.

use core::arch::global_asm;

global_asm!(
    r#"
    .set BASE, 0x80000000            /* symbol + BASE, modulo 2^64: its physical link address */

    .section .boot.header, "a", @progbits
    .balign 8
multiboot_header:                    /* Multiboot2 specification 2.0, section 3.1 */
    .long 0xe85250d6, 0, multiboot_end - multiboot_header
    .long 0x100000000 - (0xe85250d6 + (multiboot_end - multiboot_header))
    .balign 8
    .short 1, 1                      /* information request, optional */
    .long 28
    .long 1, 6, 14, 15, 21           /* command line, memory map, RSDP 1 and 2, load base */
    .balign 8
    .short 10, 0                     /* relocatable */
    .long 24
    .long 0x100000, 0xffffffff, 4096, 1
    .balign 8
    .short 0, 0                      /* end */
    .long 8
multiboot_end:

    .section .note.Xen, "a", @note
    .balign 4
    .long 4, 8, 18                   /* XEN_ELFNOTE_PHYS32_ENTRY */
    .asciz "Xen"
    .quad boot_entry + BASE

    .section .boot.text, "ax", @progbits
    .code32
    .global boot_entry
boot_entry:
    cli
    cld
    movl %eax, %ebp                  /* Multiboot2 magic, or anything */
    movl 0x7bfc, %ecx                /* borrow four bytes of low memory as a stack to learn where we are */
    movl $0x7c00, %esp
    call 1f
1:  popl %esi
    movl %ecx, 0x7bfc
    subl $(1b + BASE), %esi
    leal (boot_stack_top + BASE)(%esi), %esp

    /* Identity, and the same at the direct map: the first 4 GiB. */
    leal (boot_pml4 + BASE)(%esi), %edi
    leal (boot_pdpt_low + BASE + 3)(%esi), %eax
    movl %eax, (%edi)
    movl %eax, 256*8(%edi)
    leal (boot_pdpt_high + BASE + 3)(%esi), %eax
    movl %eax, 511*8(%edi)
    leal (boot_pdpt_low + BASE)(%esi), %edi
    leal (boot_pd_low + BASE + 3)(%esi), %eax
    movl $4, %ecx
2:  movl %eax, (%edi)
    addl $4096, %eax
    addl $8, %edi
    decl %ecx
    jnz 2b
    leal (boot_pd_low + BASE)(%esi), %edi
    movl $0x83, %eax
    movl $2048, %ecx
3:  movl %eax, (%edi)
    addl $0x200000, %eax
    addl $8, %edi
    decl %ecx
    jnz 3b
    /* The kernel: 2 MiB for each table, in small pages because its physical place is only page-aligned. */
    leal (boot_pdpt_high + BASE)(%esi), %edi
    leal (boot_pd_high + BASE + 3)(%esi), %eax
    movl %eax, 510*8(%edi)
    leal (boot_pd_high + BASE)(%esi), %edi
    leal (boot_pt_high + BASE + 3)(%esi), %eax
    movl ${tables}, %ecx
7:  movl %eax, (%edi)
    addl $4096, %eax
    addl $8, %edi
    decl %ecx
    jnz 7b
    leal (boot_pt_high + BASE)(%esi), %edi
    leal 3(%esi), %eax
    movl $512*{tables}, %ecx
4:  movl %eax, (%edi)
    addl $4096, %eax
    addl $8, %edi
    decl %ecx
    jnz 4b

    movl %cr4, %eax
    orl $0x620, %eax                 /* PAE, OSFXSR, OSXMMEXCPT */
    movl %eax, %cr4
    leal (boot_pml4 + BASE)(%esi), %eax
    movl %eax, %cr3
    movl $0xc0000080, %ecx           /* EFER: SCE, LME, NXE */
    rdmsr
    orl $0x901, %eax
    wrmsr
    movl $0x80010033, %eax           /* PG, WP, NE, ET, MP, PE */
    movl %eax, %cr0
    leal (boot_gdt + BASE)(%esi), %eax
    subl $8, %esp
    movw $31, (%esp)
    movl %eax, 2(%esp)
    lgdt (%esp)
    leal (5f + BASE)(%esi), %eax
    pushl $0x10
    pushl %eax
    lretl

    .code64
5:  movabsq $6f, %rax
    jmp *%rax
6:  movl $0x18, %eax
    movl %eax, %ds
    movl %eax, %es
    movl %eax, %ss
    xorl %eax, %eax
    movl %eax, %fs
    movl %eax, %gs
    leaq boot_stack_top(%rip), %rsp
    movl %ebp, %edi
    movl %esi, %edx
    movl %ebx, %esi
    xorl %ebp, %ebp
    call kernel_boot
    ud2

    .section .rodata.boot, "a", @progbits
    .balign 8
boot_gdt:
    .quad 0, 0, 0x00af9a000000ffff, 0x00cf92000000ffff

    /* Copied to a page below 1 MiB; the words at its end are filled in for each CPU. */
    .global trampoline_start, trampoline_words, trampoline_end
    .balign 16
    .code16
trampoline_start:
    cli
    cld
    movw %cs, %ax
    movw %ax, %ds
    movzwl %ax, %ebx
    shll $4, %ebx
    lgdtl trampoline_gdtr - trampoline_start
    movl $0x11, %eax
    movl %eax, %cr0
    ljmpl *(trampoline_far32 - trampoline_start)
    .code32
trampoline_32:
    movl $16, %eax
    movl %eax, %ds
    movl %eax, %es
    movl %eax, %ss
    movl %cr4, %eax
    orl $0x620, %eax
    movl %eax, %cr4
    movl (trampoline_cr3 - trampoline_start)(%ebx), %eax
    movl %eax, %cr3
    movl $0xc0000080, %ecx
    rdmsr
    orl $0x901, %eax
    wrmsr
    movl $0x80010033, %eax
    movl %eax, %cr0
    ljmpl *(trampoline_far64 - trampoline_start)(%ebx)
    .code64
trampoline_64:
    movq (trampoline_stack - trampoline_start)(%rbx), %rsp
    movq (trampoline_argument - trampoline_start)(%rbx), %rdi
    movq (trampoline_entry - trampoline_start)(%rbx), %rax
    xorl %ebp, %ebp
    pushq $0
    jmp *%rax
    .balign 8
trampoline_gdt:
    .quad 0, 0x00cf9a000000ffff, 0x00cf92000000ffff, 0x00af9a000000ffff
    .short 0
trampoline_gdtr:
    .short 31
    .long trampoline_gdt - trampoline_start
    .balign 8
trampoline_words:                    /* as bmk::boot::TrampolineWords */
trampoline_far32:
    .long trampoline_32 - trampoline_start, 8
trampoline_far64:
    .long trampoline_64 - trampoline_start, 24
trampoline_gdtr_offset:
    .quad trampoline_gdtr - trampoline_start
trampoline_cr3:
    .quad 0
trampoline_stack:
    .quad 0
trampoline_entry:
    .quad 0
trampoline_argument:
    .quad 0
trampoline_end:

    .section .bss.boot, "aw", @nobits
    .balign 4096
    .global boot_pml4
boot_pml4: .skip 4096
boot_pdpt_low: .skip 4096
boot_pd_low: .skip 4*4096
boot_pdpt_high: .skip 4096
boot_pd_high: .skip 4096
boot_pt_high: .skip {tables}*4096
    .global boot_stack, boot_stack_top
boot_stack: .skip 32768
boot_stack_top:
"#,
    tables = const super::BOOT_TABLES,
    options(att_syntax)
);
