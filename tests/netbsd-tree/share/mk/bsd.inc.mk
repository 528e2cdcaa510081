# Installs headers.
.include <bsd.own.mk>
.if !target(obj)
obj: .PHONY
.endif
.if !target(includes)
includes: .PHONY
.for header in ${INCS}
	@mkdir -p ${DESTDIR}${INCSDIR}
	@cmp -s ${.CURDIR}/${header} ${DESTDIR}${INCSDIR}/${header:T} || cp ${.CURDIR}/${header} ${DESTDIR}${INCSDIR}/${header:T}
.endfor
.endif
