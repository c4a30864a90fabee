################################################################################
#
# tablewalk
#
################################################################################

# The checkout that contains this folder.
TABLEWALK_SITE = $(BR2_EXTERNAL_TABLEWALK_PATH)/../..
TABLEWALK_SITE_METHOD = local
TABLEWALK_OVERRIDE_SRCDIR_RSYNC_EXCLUSIONS = --exclude=/target --exclude=/build
TABLEWALK_LICENSE = MIT
TABLEWALK_LICENSE_FILES = LICENSE

TABLEWALK_PROGRAMS = pt walktest uffd
TABLEWALK_RELEASE = $(@D)/target/$(RUSTC_TARGET_NAME)/release

# .cargo/config.toml has the flags. They are for the linker itself, not for the compiler that
# PKG_CARGO_ENV names as linker. The remapped paths keep paths of the build machine out of the programs.
define TABLEWALK_BUILD_CMDS
	cd $(@D) && \
	$(TARGET_MAKE_ENV) \
		$(PKG_CARGO_ENV) \
		CARGO_TARGET_$(call UPPERCASE,$(RUSTC_TARGET_NAME))_LINKER=$(TARGET_LD) \
		cargo build --release --locked --package tablewalk-bins \
		--config "target.$(RUSTC_TARGET_NAME).rustflags=['--remap-path-prefix=$(@D)=.', \
			'--remap-path-prefix=$(or $(BR_CARGO_HOME),$(HOME)/.cargo)=cargo']"
endef

ifeq ($(BR2_PACKAGE_TABLEWALK_INIT),y)
define TABLEWALK_INSTALL_INIT
	$(INSTALL) -D -m 0755 $(TABLEWALK_RELEASE)/init $(TARGET_DIR)/init
endef
endif

define TABLEWALK_INSTALL_TARGET_CMDS
	$(foreach program,$(TABLEWALK_PROGRAMS),\
		$(INSTALL) -D -m 0755 $(TABLEWALK_RELEASE)/$(program) $(TARGET_DIR)/bin/$(program)
	)
	$(TABLEWALK_INSTALL_INIT)
endef

$(eval $(cargo-package))
