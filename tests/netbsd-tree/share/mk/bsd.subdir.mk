# Goes through directories.
.include <bsd.own.mk>
.for target in obj includes dependall
${target}: .PHONY ${SUBDIR:S,$,.${target},}
.for directory in ${SUBDIR}
${directory}.${target}: .PHONY
	@cd ${.CURDIR}/${directory} && ${MAKE} ${target}
.endfor
.endfor
